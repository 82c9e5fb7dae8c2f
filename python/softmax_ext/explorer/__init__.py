"""A local web page that shows what softmax does: ``python -m softmax_ext.explorer``.

Every number in it is computed by this package's operators when it is shown; the page only draws. Needs the extra
``explorer``.
"""
