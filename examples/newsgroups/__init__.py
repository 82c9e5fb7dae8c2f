"""Trains a text classifier with softmax_ext's cross-entropy and with torch's, side by side: ``python -m examples.newsgroups``."""
