#!/usr/bin/env bash
# Builds the wheel with the CUDA kernels as on a machine without a CUDA toolkit: nvcc comes from the package index. Where the
# machine has a toolkit, it is hidden in a mount namespace.
#
#   tools/check_toolkit_packages.sh PYTHON FOLDER     PYTHON has torch; the wheel is left in FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(realpath -s "$1")
mkdir -p "$2"
folder=$(realpath "$2")

if [[ ${3:-} != hidden ]]; then
  exec unshare --user --map-root-user --mount "$0" "$python" "$folder" hidden
fi
toolkit=$(realpath -m /usr/local/cuda)
if [[ -d $toolkit ]]; then mount -t tmpfs none "$toolkit"; fi
while nvcc=$(command -v nvcc) && [[ -x $nvcc ]]; do mount --bind /dev/null "$nvcc"; hash -r; done
unset CUDACXX CUDA_HOME
export SOFTMAX_EXT_CUDA=1 SOFTMAX_EXT_ARCHS="${SOFTMAX_EXT_ARCHS:-90}" SOFTMAX_EXT_BUILD_DIR="$folder/build"
"$python" -m pip wheel --disable-pip-version-check --verbose --no-deps --wheel-dir "$folder" . 2>&1 | tee "$folder/log" |
  grep --line-buffered -E "cuda-toolkit|WITH CUDA KERNELS|Successfully built|rror"
grep -q "Collecting cuda-toolkit\[.*nvcc" "$folder/log"
grep -q "WITH CUDA KERNELS.*cuda-toolkit/bin/nvcc" "$folder/log"
