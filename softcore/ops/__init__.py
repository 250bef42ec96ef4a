"""The public functions. Each one checks its arguments (`softcore.check`) and runs a kernel (`softcore.ops.run`); each forward
stands directly above its backward.

A call without a mask or other options first offers itself to ``kernels.core.plain``, a compiled short path for contiguous arrays of
native dtype. It returns None for everything else, invalid arguments included, and the call goes the long way.
"""
