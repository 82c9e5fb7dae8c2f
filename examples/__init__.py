"""Programs that use softmax_ext; run them from the root of the source tree."""
