"""setuptools' build backend, which also asks for cmake and ninja where the machine has none."""

import shutil

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def _missing_tools():
    requirements = {"cmake": "cmake>=3.25", "ninja": "ninja"}
    return [requirement for tool, requirement in requirements.items() if not shutil.which(tool)]


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _missing_tools()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _missing_tools()


def get_requires_for_build_sdist(config_settings=None):
    return []  # without running setup.py: a source archive is made without torch too
