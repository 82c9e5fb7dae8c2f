"""Documents as numbers: the weight of each of the most frequent words."""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from examples.newsgroups.data import Newsgroups


def tf_idf(newsgroups: Newsgroups, words: int) -> tuple[csr_matrix, csr_matrix]:
    """TF-IDF of the training and of the test documents, float32, ``[documents, words]``, rows of length 1.

    Words and their weights are those of the training documents alone. A word's count enters as 1 + log(count).
    """
    vectorizer = TfidfVectorizer(max_features=words, sublinear_tf=True, dtype=np.float32)
    return vectorizer.fit_transform(newsgroups.train.texts), vectorizer.transform(newsgroups.test.texts)


def dense(documents: csr_matrix) -> torch.Tensor:
    """``[documents, words]`` as a tensor. All of them would take 360 MB, so ask for a batch at a time."""
    return torch.from_numpy(documents.toarray())
