"""Tables of numbers and categories: read CSV files, encode their columns for a network, decode its outputs.

`TableEncoder.from_training_rows` learns the encoding from the training rows. `TableModel` saves it with the network, so
that predictions take a table as the user has it and return the user's labels and units.
"""

from .encoder import TableEncoder
from .model import TableModel

__all__ = ["TableEncoder", "TableModel"]
