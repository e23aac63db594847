"""Arrays of other libraries, reduced to one protocol."""


class OnlyDLPack:
    """An array with the DLPack protocol only, with the arguments that NumPy passes."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()
