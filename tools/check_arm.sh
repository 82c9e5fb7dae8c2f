#!/usr/bin/env bash
# Compiles the portable inner loops of csrc/cpu/simd for 64-bit Arm and runs their tests under emulation. Wants, from
# Debian: g++-aarch64-linux-gnu, qemu-user and googletest (its sources).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

googletest=${GOOGLETEST:-/usr/src/googletest/googletest}
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || { echo "check_arm: expected $tool, found none (Debian: g++-aarch64-linux-gnu, qemu-user)" >&2; exit 1; }
done
[[ -e $googletest/src/gtest-all.cc ]] || { echo "check_arm: expected GoogleTest's sources in $googletest (Debian: googletest; or set GOOGLETEST)" >&2; exit 1; }

build=build/arm
mkdir -p "$build"
compile() { aarch64-linux-gnu-g++ -std=c++20 -O2 -fno-math-errno -ffp-contract=off -DSOFTMAX_EXT_LEVEL=portable -I. "$@"; }
if [[ ! -e $build/gtest.o ]]; then
  compile -I"$googletest" -I"$googletest/include" -c "$googletest/src/gtest-all.cc" -o "$build/gtest.o"
  compile -I"$googletest" -I"$googletest/include" -c "$googletest/src/gtest_main.cc" -o "$build/gtest_main.o"
fi
for file in backward cross_entropy log_softmax reduction softmax; do
  compile -Wall -Wextra -Werror -Wno-unused-parameter -c "csrc/cpu/simd/$file.cpp" -o "$build/$file.o"
done
for test in test_elementary test_rows; do
  compile -Wno-dangling-else -I"$googletest/include" -static "tests/cpp/cpu/$test.cpp" \
    "$build"/{backward,cross_entropy,log_softmax,reduction,softmax,gtest,gtest_main}.o -o "$build/$test" -lpthread
  qemu-aarch64 "$build/$test"
done
