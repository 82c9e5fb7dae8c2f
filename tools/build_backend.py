"""setuptools' build backend, which also asks for cmake and ninja where the machine has none, and for nvcc where
SOFTMAX_EXT_CUDA=1 asks for the CUDA kernels."""

from find_tools import missing_tools, toolkit_requirements
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def _missing_tools():
    return missing_tools() + toolkit_requirements()


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _missing_tools()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _missing_tools()


def get_requires_for_build_sdist(config_settings=None):
    return []  # without running setup.py: a source archive is made without torch too
