"""Sequential, the network that users build, train, inspect and save.

The class validates arguments and delegates: `network` computes, `training` runs fits, `inspection` shows a step.
"""

from __future__ import annotations

import contextlib
import operator
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from . import backend as backends
from . import compile_options, inspection, losses, metrics, optimizers
from . import input_checks as checks
from . import layers as layer_registry
from .inspection import LayerTrace, Profile, Summary
from .kernels import get as kernel
from .layers import Layer
from .losses import Loss
from .network import Network
from .parallel import DataParallel
from .program import Array, Program
from .training import checkpoint, evaluation, fit, inputs, learning_rates, parameter_arrays
from .training.callbacks import Callback
from .training.history import History
from .training.resume import TrainingRun
from .validation import as_list, positive, positive_integer

BATCH = 32
PREDICTION_BATCH = 1024


class Sequential:
    """A stack of layers, trained by back-propagation.

    Weights are drawn once the number of inputs is known: with `input_shape=`, at `build(n_in)`, or at the first fit,
    predict or trace.

    Parameters
    ----------
    layers : iterable of Layer
        Dense, Activation, Dropout, Embedding, BatchNormalization, LayerNormalization, PeriodicEmbedding, or subclasses
        of `gpunn.Layer`. A layer belongs to one network.
    input_shape : int or (int,), optional
        Number of inputs; None takes it from the first X.
    seed : int, optional
        Seed of initial weights, shuffles and dropout masks, in [0, 2⁶⁴). None draws one; `net.seed` shows it.
    dtype : {"float32", "float64"}
        Type of parameters and activations.

    Raises
    ------
    ValueError, TypeError
        For an invalid argument; the message names it.

    Examples
    --------
    >>> import gpunn
    >>> net = gpunn.Sequential([gpunn.Dense(8, activation="relu"), gpunn.Dense(3)], input_shape=4, seed=0)
    >>> [w.shape for w in net.get_weights()]
    [(4, 8), (8,), (8, 3), (3,)]
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        input_shape: int | tuple[int] | None = None,
        seed: int | None = None,
        dtype: Any = "float32",
    ) -> None:
        found = _check_layers(layers)
        n_in = _check_input_shape(input_shape)
        self._net = Network(found, _check_seed(seed), checks.float_dtype(dtype))
        self._epochs = 0
        self._threads: int | None = None
        self._fit_lock = threading.Lock()
        self._run: TrainingRun | None = None
        self.stop_training = False
        if n_in is not None:
            self.build(n_in)
        self._mark_layers_owned()

    def _mark_layers_owned(self) -> None:
        for layer in self._net.layers:
            layer.owned = True

    def __getstate__(self) -> dict[str, Any]:
        """The state without the fit lock and the running fit: a copy made during a fit is not being fitted."""
        return {k: v for k, v in vars(self).items() if k != "_fit_lock"} | {"_run": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._fit_lock = threading.Lock()
        self._mark_layers_owned()

    # --- properties ---

    @property
    def layers(self) -> list[Layer]:
        """The layers, first to last, as a new list."""
        return list(self._net.layers)

    @property
    def seed(self) -> int:
        """The seed of initial weights, shuffles and dropout masks."""
        return self._net.seed

    @property
    def dtype(self) -> np.dtype:
        """The type of parameters and activations."""
        return self._net.dtype

    @property
    def precision(self) -> str | None:
        """The precision of matrix products on a GPU, "tf32" or "bf16"; None means `dtype`."""
        return self._net.precision

    @property
    def device(self) -> str:
        """The device of the parameters, "cpu" or "cuda:N"."""
        return self._net.backend.device

    @property
    def device_reason(self) -> str:
        """The reason for the choice of the device, in one line."""
        return self._net.backend.reason

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The compiled optimizer. RuntimeError before `compile`."""
        self._require_compiled("optimizer")
        return self._net.optimizer

    @property
    def loss(self) -> Loss:
        """The compiled loss. RuntimeError before `compile`."""
        self._require_compiled("loss")
        assert self._net.given_loss is not None
        return self._net.given_loss

    @property
    def learning_rate(self) -> float:
        """The learning rate η of the next step: the override if one is set, otherwise the schedule's value.

        Setting it overrides the schedule until it is set again or `compile` is called; None returns to the schedule.
        RuntimeError before `compile`; ValueError or TypeError unless the value is a positive number.
        """
        self._require_compiled("learning_rate")
        return learning_rates.learning_rate(self._net, self._epochs)

    @learning_rate.setter
    def learning_rate(self, rate: float | None) -> None:
        self._require_compiled("learning_rate")
        self._net.learning_rate_override = None if rate is None else positive("learning_rate", rate)

    def __len__(self) -> int:
        return len(self._net.layers)

    def __getitem__(self, index: int) -> Layer:
        return self._net.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._net.layers)

    def __repr__(self) -> str:
        shape = f", input_shape={self._net.n_in}" if self._net.is_built else ""
        return f"Sequential({self._net.layers!r}{shape}, seed={self.seed}, dtype='{self.dtype}')"

    def summary(self, batch_size: int = BATCH) -> Summary:
        """A table of the layers, their parameters, the memory of a training step, and what leaves the fast path.

        Parameters
        ----------
        batch_size : int
            Number of rows of the training step whose memory is shown.

        Returns
        -------
        Summary
            A string that prompts and notebooks show as text. Before the number of inputs is known it lists the layers
            only.
        """
        if not self._net.is_built:
            return Summary(f"{self!r}\nnot built: the number of inputs is not known yet")
        rows = None if self._net.given_loss is None else positive_integer("batch_size", batch_size)
        return Summary(inspection.summary(self._net, rows))

    def program(self, batch_size: int = BATCH, *, rewritten: bool = True) -> Program:
        """The program of a training step; `print` it to see every operation with its shapes and storage types.

        Parameters
        ----------
        batch_size : int
            The number of rows of the step.
        rewritten : bool
            If true, as it is executed, with operations fused by the device's rules; otherwise as the layers, the loss
            and the optimizer record it.

        Returns
        -------
        gpunn.program.Program

        Raises
        ------
        RuntimeError
            Before `compile`, or before the number of inputs is known.
        """
        self._require_compiled("program")
        self._require_built("program")
        return inspection.step_program(self._net, batch_size, rewritten=rewritten)

    # --- weights ---

    def build(self, n_in: int) -> Sequential:
        """Set the number of inputs and draw the initial weights from the seed. (E10)

        Parameters
        ----------
        n_in : int
            Number of inputs.

        Raises
        ------
        RuntimeError
            If the network is already built.
        """
        if self._net.is_built:
            raise RuntimeError(f"build() works once: the network is already built, for {self._net.n_in} inputs")
        self._net.build(positive_integer("n_in", n_in))
        return self

    def _reseed(self, seed: int, name: str) -> None:
        """Set another seed before the first step, and draw existing weights again from it."""
        self._net.seed = _check_seed(seed, name)
        if self._net.is_built:
            self._net.build(self._net.n_in)

    def get_weights(self) -> list[np.ndarray]:
        """The parameters [W1, b1, W2, b2, …] as NumPy arrays, copied.

        Raises
        ------
        RuntimeError
            Before the number of inputs is known.
        """
        self._require_built("get_weights")
        net = self._net
        return [np.array(net.backend.to_host(p.of(net.theta))) for p in net.slices_in_order()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy parameters into the network.

        Parameters
        ----------
        weights : sequence of array-like
            The arrays in the order of `get_weights`.

        Raises
        ------
        ValueError
            If their number or a shape differs, or a value is not finite in the network's dtype. Nothing is changed.
        RuntimeError
            Before the number of inputs is known.
        """
        self._require_built("set_weights")
        net = self._net
        slices, entries = net.slices_in_order(), as_list("weights", weights, "arrays")
        if len(entries) != len(slices):
            raise ValueError(f"weights must hold {len(slices)} arrays, got {len(entries)}")
        arrays = []
        for k, (given, parameter_slice) in enumerate(zip(entries, slices, strict=True)):
            array = backends.to_host(checks.as_real_array(given, f"weights[{k}]"))
            shape = parameter_slice.parameter.shape
            if array.shape != shape:
                raise ValueError(f"weights[{k}] must have shape {shape}, got {array.shape}")
            with np.errstate(over="ignore"):
                converted = array.astype(net.dtype)
            if not np.isfinite(converted).all():
                raise ValueError(f"weights[{k}] holds NaN, infinity or a number too large for {net.dtype}")
            arrays.append(converted)
        for array, parameter_slice in zip(arrays, slices, strict=True):
            parameter_slice.of(net.theta)[...] = net.backend.asarray(array)

    def to(self, device: str) -> Sequential:
        """Move the network to a device.

        Parameters
        ----------
        device : str
            "cpu", "cuda", "cuda:N" or "auto". On a CPU matrix products are computed in `dtype`, also if `precision`
            is set for GPUs.

        Raises
        ------
        ValueError
            For an unknown device, or a GPU without the network's `precision`.
        DeviceError
            If the device cannot be used.
        """
        self._require_idle("to")
        return self._move(device, self._net.precision, explicit=False)

    def _move(self, device: str, precision: str | None, *, explicit: bool) -> Sequential:
        """Move to a device and set the precision; `explicit` is passed to `Backend.lower_precision_error`."""
        group = self._net.group
        with group.collective():
            backend = group.backend(backends.get(device), device)
            lower = compile_options.resolve_precision(precision, backend, self._net.dtype, explicit=explicit)
            group.allgather("to", None)
            self._net.move(backend)
            self._net.set_precision(lower)
            group.set_device(backend)
        return self

    # --- training ---

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        metrics: Iterable[Any] = (),
        *,
        device: Any = "auto",
        precision: str | None = None,
        threads: int | None = None,
        strategy: DataParallel | None = None,
        eager: bool = False,
    ) -> Sequential:
        """Set the optimizer, the loss, the metrics and the device.

        A second call keeps the weights and resets the optimizer's state. Attributes of layers, optimizer, loss and
        metrics may be set later; a change takes effect at the next step.

        Parameters
        ----------
        optimizer : str or Optimizer
            A name ("adam") or an object (`Adam(1e-3)`).
        loss : str, Loss or callable
            A name, a `gpunn.losses` object, or a function (y, a) → (ℓ, g) with ℓ (n,) and g = ∂ℓ/∂a (n, n_out).
        metrics : iterable of str or Metric
            Metrics that are reported in addition to the loss.
        device : str
            "auto", "cpu", "cuda" or "cuda:N".
        precision : {None, "tf32", "bf16"}
            Precision of the matrix products of a float32 network on a GPU. "tf32" reduces operands to 11 bits, "bf16"
            to 8 bits. With "bf16" the batch, z, a and δ between dense layers whose widths are multiples of 8 are also
            stored in bfloat16. Sums, parameters, gradients and the optimizer's state stay float32.
        threads : int, optional
            Maximum number of threads of a fit, BLAS included; None uses BLAS's setting. Needs the extra `threads`.
        strategy : DataParallel, optional
            Distributes the rows of every batch over the processes that `mpiexec` started; None trains in this process
            only. A script that is started without `mpiexec` is one process.
        eager : bool
            If true, every operation of a step is computed from Python, one after the other: slow, but a debugger can
            stop in the methods of layers, losses, metrics and optimizers, and print their arrays. The results are equal
            to rounding. The environment variable GPUNN_EAGER=1 has the same effect for all networks.

        Raises
        ------
        ValueError, TypeError
            For an invalid argument, or a loss that does not fit the last layer. Nothing is changed. With a strategy,
            also if the arguments differ between ranks.
        DeviceError
            If the device cannot be used.
        RuntimeError
            For a strategy, if `mpiexec` and mpi4py use different MPI libraries.
        ImportError
            For `threads` without threadpoolctl, or a strategy under `mpiexec` without mpi4py.
        """
        self._require_idle("compile")
        group = compile_options.process_group(strategy)
        with group.collective():
            options = compile_options.resolve(
                self._net,
                group,
                optimizer,
                loss,
                metrics,
                device=device,
                precision=precision,
                threads=threads,
                eager=eager,
            )
            compile_options.check_agreement(group, self._net, options, self)
            self._net.move(options.backend)
            self._net.compile(
                options.optimizer,
                (options.loss, options.metrics),
                options.resolved,
                precision=options.precision,
                eager=options.eager,
            )
            group.set_device(options.backend)
            self._net.set_group(group)
            self._threads = options.threads
            self._epochs = 0
            return self

    def set_strategy(self, strategy: DataParallel | None) -> Sequential:
        """Set the strategy of a compiled network and keep the optimizer's state.

        Copies and loaded networks train in their own process until this is called.

        Parameters
        ----------
        strategy : DataParallel, optional
            As in `compile`, with the same errors.
        """
        self._require_compiled("set_strategy")
        self._require_idle("set_strategy")
        group = compile_options.process_group(strategy)
        with group.collective():
            group.check_agreement("set_strategy", lambda: {"the weights": self._net.weights_checksum()})
            group.set_device(self._net.backend)
            self._net.set_group(group)
        return self

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        batch_size: int = BATCH,
        epochs: int = 1,
        shuffle: bool = True,
        validation_data: Any = None,
        validation_split: float = 0.0,
        sample_weight: Any = None,
        class_weight: dict[Any, float] | str | None = None,
        callbacks: Iterable[Callback] = (),
        verbose: int = 1,
        resume: str | os.PathLike[str] | None = None,
        steps_per_epoch: int | None = None,
    ) -> History:
        """Train on mini-batches for a number of epochs. (E8)

        A second fit continues with the optimizer's state and the next epoch's shuffle. With a strategy, all ranks make
        this call with the same arguments; `batch_size` is the total over the ranks.

        Parameters
        ----------
        X : array-like (n, n_in), gpunn.Rows, iterable or callable
            Inputs. Memory-mapped arrays are read batch by batch. Of `Rows` (data on disk) each process reads its whole
            own block before training. Any other iterable is a stream of batches (x, y) or (x, y, sample_weight), one
            of which is in memory at a time; a function without arguments returns such an iterable for each epoch. An
            iterator is not restarted: the next epoch continues where the last one ended. Streams determine size and
            order of the batches, and cannot be distributed.
        y : array-like (n,) or (n, n_out)
            Targets: labels (n,) for sparse_categorical_crossentropy, otherwise (n, n_out). None for a stream.
        batch_size : int
            Number of rows per step.
        epochs : int
            Number of epochs; with `resume` the total, including the epochs of the checkpoint.
        shuffle : bool
            If true, every epoch draws a new order of the rows.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Data that is evaluated after every epoch. Class weights do not apply to it, as in Keras.
        validation_split : float
            Share of the rows of X, taken from its end, that are used as validation data.
        sample_weight : array-like (n,), optional
            Weights ≥ 0 of the rows. (E3)
        class_weight : dict or "balanced", optional
            Weights of the classes, multiplied with `sample_weight`.
        callbacks : iterable of Callback
            Called at the begin and end of the fit, its epochs and its batches.
        verbose : {0, 1, 2}
            0 prints nothing, 1 shows a progress bar, 2 prints one line per epoch.
        resume : path, optional
            A checkpoint of an interrupted fit with the same arguments, written by `ModelCheckpoint`. Weights, optimizer
            state, history and callbacks are restored, and the fit gives the same bits as an uninterrupted one. Data
            sets are compared by shape, dtype and a checksum of sampled rows, labels and weights; streams are not
            compared. If there is no such file, the fit starts from the beginning.
        steps_per_epoch : int, optional
            Number of batches per epoch of a stream; None means until its end.

        Returns
        -------
        History
            One entry per epoch for the loss, the metrics and their validation values.

        Raises
        ------
        ValueError, TypeError
            For an invalid argument. Nothing is changed.
        CheckpointError
            For a checkpoint that is damaged or belongs to another fit.
        DivergenceError
            At the first step that is not finite. The weights before that step are kept.
        """
        self._require_compiled("fit")
        self._require_idle("fit")
        with self._net.group.collective():
            options = fit.FitOptions(
                batch_size,
                epochs,
                shuffle,
                validation_data,
                validation_split,
                class_weight,
                callbacks,
                verbose,
                resume,
                steps_per_epoch,
            )
            return fit.fit(self, X, y, sample_weight, options)

    def train_on_batch(self, x: Any, y: Any, *, sample_weight: Any = None, class_weight: Any = None) -> float:
        """Take one step on one batch. (E8)

        A batch whose weights are all zero changes nothing, and its loss is the penalty (E3). With a strategy, all ranks
        make this call with the whole batch.

        Parameters
        ----------
        x : array-like (n, n_in)
            Inputs.
        y : array-like (n,) or (n, n_out)
            Targets, as in `fit`.
        sample_weight, class_weight
            As in `fit`.

        Returns
        -------
        float
            The loss before the step, with penalties.
        """
        self._require_compiled("train_on_batch")
        self._require_idle("train_on_batch")
        with self._net.group.collective():
            return fit.train_on_batch(self, inputs.batch(self._net, x, y, sample_weight, class_weight))

    def evaluate(
        self, X: Any, y: Any, *, batch_size: int = PREDICTION_BATCH, sample_weight: Any = None
    ) -> dict[str, float]:
        """Compute the loss and the metrics: weighted means over the rows. Nothing is changed.

        Evaluation is not distributed: each rank that makes this call evaluates all rows.

        Parameters
        ----------
        X : array-like (n, n_in)
            Inputs.
        y : array-like (n,) or (n, n_out)
            Targets, as in `fit`.
        batch_size : int
            Number of rows that are evaluated together.
        sample_weight : array-like (n,), optional
            Weights ≥ 0 of the rows.

        Returns
        -------
        dict of str to float
            "loss", with penalties, and every metric by name.
        """
        self._require_compiled("evaluate")
        batch_size = positive_integer("batch_size", batch_size)
        data = inputs.evaluation_data(self._net, X, y, sample_weight)
        with self._net.backend.activate(), evaluation.BorrowedExecutables(self._net) as executables:
            on_device = inputs.to_device_or_host(self._net, data)
            return evaluation.evaluate(self._net, on_device, executables, batch_size)

    # --- prediction ---

    def predict(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """aᴸ, the output of the last layer. (E1, E2)

        Parameters
        ----------
        X : array-like (n, n_in)
            Inputs.
        batch_size : int
            Number of rows that are computed together.

        Returns
        -------
        array (n, n_out)
            A CuPy array if X is one, otherwise a NumPy array.
        """
        batch_size = positive_integer("batch_size", batch_size)
        array = checks.as_matrix(X, inputs.known_inputs(self._net))
        if not self._net.is_built:
            checks.check_numbers(array, self.dtype)
            self.build(array.shape[1])
        with self._net.backend.activate():
            return checks.like_input(evaluation.predict(self._net, array, batch_size), X)

    def predict_proba(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """Probabilities: aᴸ after softmax or sigmoid, or softmax or sigmoid of logits.

        Parameters
        ----------
        X, batch_size
            As in `predict`.

        Returns
        -------
        array (n, n_out)
            Probabilities, of the kind that `predict` returns.

        Raises
        ------
        ValueError
            If the last layer gives neither probabilities nor logits.
        """
        activation, are_logits = self._probability()
        a = self.predict(X, batch_size=batch_size)
        with backends.device_of(a):
            return kernel(activation)(a) if are_logits else a

    def predict_classes(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """Indices of the predicted classes.

        Parameters
        ----------
        X, batch_size
            As in `predict`.

        Returns
        -------
        array of int, (n,) or (n, n_out)
            The index (n,) of the largest probability; for sigmoid outputs 1 where the probability exceeds ½, else 0,
            with shape (n,) for a single output.

        Raises
        ------
        ValueError
            As `predict_proba`.
        """
        activation, _ = self._probability()
        p = self.predict_proba(X, batch_size=batch_size)
        with backends.device_of(p):
            if activation != "sigmoid":
                return p.argmax(axis=1)
            positive_class = (p > 0.5).astype("int64")
            return positive_class[:, 0] if positive_class.shape[1] == 1 else positive_class

    def _probability(self) -> tuple[str, bool]:
        """("softmax" or "sigmoid", True if aᴸ are its logits), by the loss or else by the last layer."""
        self._net.apply_attribute_changes()
        loss = self._net.loss if self._net.given_loss is not None else None
        activation = getattr(loss, "paired_activation", None)
        if activation is not None:
            return activation, bool(getattr(loss, "takes_logits", False))
        last = self._net.layers[-1].activation.name
        if last in ("softmax", "sigmoid"):
            return last, False
        raise ValueError(
            f"the last layer must give probabilities, got activation {last!r}: end with softmax or sigmoid, or compile "
            "with a cross-entropy loss"
        )

    # --- inspection ---

    def loss_and_gradients(
        self, x: Any, y: Any, training: bool = True, *, sample_weight: Any = None
    ) -> tuple[float, list[np.ndarray]]:
        """The cost C of one batch and its gradients, penalties included. Nothing is changed. (E3 to E7, E9)

        Parameters
        ----------
        x : array-like (n, n_in)
            Inputs.
        y : array-like (n,) or (n, n_out)
            Targets, as in `fit`.
        training : bool
            If true, use the dropout masks of the current step and the statistics of the batch, as the next step does;
            two calls return the same bits.
        sample_weight : array-like (n,), optional
            Weights ≥ 0 of the rows.

        Returns
        -------
        (float, list of arrays)
            C and [dW1, db1, …]. The gradients of a frozen layer are zero.
        """
        self._require_compiled("loss_and_gradients")
        return inspection.loss_and_gradients(self._net, inputs.batch(self._net, x, y, sample_weight), training=training)

    def input_gradient(self, x: Any, y: Any, training: bool = True, *, sample_weight: Any = None) -> np.ndarray:
        """∂C/∂x of one batch. Nothing is changed. (E5)

        Parameters
        ----------
        x, y, training, sample_weight
            As in `loss_and_gradients`.

        Returns
        -------
        array (n, n_in)
            The gradient with respect to the inputs.
        """
        self._require_compiled("input_gradient")
        return inspection.input_gradient(self._net, inputs.batch(self._net, x, y, sample_weight), training=training)

    def profile(self, X: Any, y: Any, *, batch_size: int = BATCH) -> Profile:
        """Time every kernel and product of a training step alone, on one thread. Nothing is changed.

        In a step they take a little longer, because they displace one another from the caches.

        Parameters
        ----------
        X : array-like (n, n_in)
            Inputs, n ≥ batch_size.
        y : array-like (n,) or (n, n_out)
            Targets, as in `fit`.
        batch_size : int
            Rows of a step.

        Returns
        -------
        Profile
            The launches of a step, each with its duration in microseconds. `print` shows them as a table.
        """
        self._require_compiled("profile")
        return inspection.profile(self._net, inputs.validate(self._net, X, y, None), batch_size)

    def trace(
        self, x: Any, y: Any = None, training: bool | None = None, *, sample_weight: Any = None
    ) -> list[LayerTrace]:
        """z, a, δ = ∂C/∂z, ∂C/∂W and ∂C/∂b of every layer for one batch, computed without fusion. (E1 to E7)

        With y they are by default those of the next training step, as in `loss_and_gradients` and `check_gradients`.

        Parameters
        ----------
        x : array-like (n, n_in)
            Inputs.
        y : array-like (n,) or (n, n_out), optional
            Targets, as in `fit`; needs a compiled network. None computes the forward pass only.
        training : bool, optional
            If true, use dropout masks and batch statistics, as in `loss_and_gradients`; if false, trace a prediction.
            None is true with y, and false without.
        sample_weight
            As in `loss_and_gradients`.

        Returns
        -------
        list of LayerTrace
            One entry per layer.
        """
        if y is None:
            return inspection.trace_forward(self._net, x, training=bool(training))
        self._require_compiled("trace with y")
        training = True if training is None else training
        return inspection.trace(self._net, inputs.batch(self._net, x, y, sample_weight), training=training)

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, running statistics, architecture and compiled options to a safetensors file, atomically.

        The file contains no pickle. User-defined layers, activations, losses and metrics are stored by name, and
        `gpunn.load(…, custom=…)` supplies them.

        Parameters
        ----------
        path : path
            The file; an existing one is replaced.

        Raises
        ------
        OSError
            If writing fails; an existing file is unchanged.
        RuntimeError
            Before the number of inputs is known.
        """
        self._require_built("save")
        tensors, metadata = self.to_tensors()
        checkpoint.write(path, tensors, metadata)

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint of the running fit, for `fit(…, resume=path)`; for a callback's `on_epoch_complete`.

        `gpunn.load` opens the file as the network at that epoch. With a strategy, rank 0 writes.

        Parameters
        ----------
        path : path
            The file; an existing one is replaced.

        Raises
        ------
        RuntimeError
            If no fit is running.
        OSError
            If writing fails; an existing file is unchanged.
        """
        if self._run is None:
            raise RuntimeError("save_checkpoint() works only during fit(); use save() for a trained network")
        if self._net.group.rank == 0:
            self._run.save(path)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the network as an ONNX graph, atomically.

        The graph maps the input "X" (N, n_in) to "output" (N, n_out), for any number N of rows, as `predict` does.

        Parameters
        ----------
        path : path
            The file; an existing one is replaced.

        Raises
        ------
        ImportError
            Without onnx (extra `onnx`).
        ValueError
            For a user-defined layer or activation.
        RuntimeError
            Before the number of inputs is known.
        OSError
            If writing fails; an existing file is unchanged.
        """
        # imported here, so that other uses of a network do not load the exporter
        from .interchange import onnx

        self._net.apply_attribute_changes()
        onnx.write(onnx.network(self), path)

    def to_tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the JSON metadata that `save` writes.

        Raises
        ------
        RuntimeError
            Before the number of inputs is known.
        """
        self._require_built("to_tensors")
        self._net.apply_attribute_changes()
        return parameter_arrays.to_tensors(self._net)

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        metadata: dict[str, Any],
        *,
        custom: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> Sequential:
        """Create a network from the results of `to_tensors`.

        Parameters
        ----------
        tensors, metadata : dict
            The results of `to_tensors`.
        custom : dict, optional
            User-defined layers, activations, losses and metrics by name.
        device : str
            The device of the network.

        Raises
        ------
        CheckpointError
            If the arrays do not fit the architecture.
        ValueError
            If `custom` lacks a name.
        """
        custom = custom or {}
        if metadata.get("kind") != "sequential":
            raise checkpoint.CheckpointError(f"the file must hold a network, got {metadata.get('kind')!r}")
        layers = [layer_registry.from_config(c, custom) for c in metadata["layers"]]
        model = cls(layers, seed=int(metadata["seed"]), dtype=metadata["dtype"])
        parameter_arrays.load_parameters(model._net, metadata["n_in"], tensors)
        compiled = metadata["compiled"]
        if compiled is not None:
            model.compile(
                optimizers.from_config(compiled["optimizer"], custom),
                losses.from_config(compiled["loss"], custom),
                [metrics.from_config(m, custom) for m in compiled["metrics"]],
                device=device,
            )
            model._move(device, compiled.get("precision"), explicit=False)
        else:
            model.to(device)
        return model

    # --- checks ---

    def _require_compiled(self, name: str) -> None:
        if self._net.given_loss is None:
            raise RuntimeError(f"{name} needs a loss and an optimizer: call compile(optimizer=…, loss=…) first")

    def _require_idle(self, name: str) -> None:
        """Raise during a fit: a callback may read and change weights and stop the fit, but not start another."""
        if self._fit_lock.locked():
            raise self._fit_runs(name)

    @contextlib.contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        """Hold the fit lock: one fit at a time, in all threads."""
        if not self._fit_lock.acquire(blocking=False):
            raise self._fit_runs(name)
        try:
            yield
        finally:
            self._fit_lock.release()

    @staticmethod
    def _fit_runs(name: str) -> RuntimeError:
        return RuntimeError(f"{name} cannot be called while fit runs; set stop_training = True to end it first")

    def _require_built(self, name: str) -> None:
        if not self._net.is_built:
            raise RuntimeError(
                f"{name}: there are no weights yet, because the number of inputs is not known; "
                "give input_shape=, call build(n_in), or fit first"
            )


def _check_layers(layers: Any) -> list[Layer]:
    """The layers as a list, none of which belongs to a network."""
    found = as_list("layers", layers, "gpunn layers")
    if not found:
        raise ValueError("layers is empty; a network needs at least one layer")
    seen = set()
    for k, layer in enumerate(found):
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{k}] must be a gpunn layer, got {type(layer).__name__}")
        if id(layer) in seen or layer.owned:
            raise ValueError(f"layers[{k}] ({layer!r}) is already in use; create a new layer, or copy.deepcopy it")
        seen.add(id(layer))
    return found


def _check_input_shape(shape: Any) -> int | None:
    if shape is None:
        return None
    if isinstance(shape, (tuple, list)):
        if len(shape) != 1:
            raise ValueError(f"input_shape must be the number of inputs or (inputs,), got {shape!r}")
        shape = shape[0]
    return positive_integer("input_shape", shape)


def _check_seed(seed: Any, name: str = "seed") -> int:
    if seed is None:
        return secrets.randbits(63)
    with contextlib.suppress(TypeError):
        if not isinstance(seed, bool):
            number = operator.index(seed)
            if not 0 <= number < 2**64:
                raise ValueError(f"{name} must be in [0, 2⁶⁴), got {seed}")
            return number
    raise TypeError(f"{name} must be an integer or None, got {seed!r}")
