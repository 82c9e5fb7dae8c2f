# Finds torch, without importing it, and makes targets for it:
#
#   softmax_ext_torch       headers, libtorch, libtorch_cpu, libc10
#   softmax_ext_torch_cuda  libtorch_cuda, libc10_cuda
#   softmax_ext_openmp      the OpenMP runtime that torch brings
#
# torch's own CMake package is not used: it puts its C++ standard after ours, generates code for architectures that nvcc
# may not know, and asks for the CUDA toolkit even where only C++ is compiled.

set(TORCH_DIR "$ENV{TORCH_DIR}" CACHE PATH "folder with torch's include/, lib/ and share/; empty: that of the python on PATH")
if(NOT TORCH_DIR)
  find_package(Python QUIET COMPONENTS Interpreter)
  if(Python_FOUND)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
              "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE TORCH_DIR
      OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(NOT TORCH_DIR)
    message(FATAL_ERROR "No torch: '${Python_EXECUTABLE}' has none.\n"
                        "Run 'pip install torch==2.11.*' in its environment, or set -DTORCH_DIR=/path/to/torch.")
  endif()
endif()
get_filename_component(TORCH_DIR "${TORCH_DIR}" ABSOLUTE BASE_DIR ${CMAKE_BINARY_DIR})

set(version_file ${TORCH_DIR}/share/cmake/Torch/TorchConfigVersion.cmake)
if(NOT EXISTS ${version_file})
  message(FATAL_ERROR "No torch in TORCH_DIR=${TORCH_DIR}: expected share/cmake/Torch/TorchConfigVersion.cmake there.")
endif()
file(STRINGS ${version_file} torch_version REGEX "^set\\(PACKAGE_VERSION \"")
string(REGEX REPLACE ".*\"([0-9]+\\.[0-9]+)(\\.[0-9]+).*" "\\1\\2" torch_version "${torch_version}")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" torch_minor "${torch_version}")
if(torch_version VERSION_LESS 2.11)
  message(FATAL_ERROR "softmax_ext needs torch 2.11 or newer, found ${torch_version} in ${TORCH_DIR}.")
endif()

add_library(softmax_ext_torch INTERFACE)
target_include_directories(
  softmax_ext_torch SYSTEM INTERFACE ${TORCH_DIR}/include ${TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(
  softmax_ext_torch INTERFACE ${TORCH_DIR}/lib/libtorch.so ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so)

# A second OpenMP runtime in the process would have threads of its own that torch.set_num_threads does not govern, so
# the compiler's is never linked.
file(GLOB torch_openmp ${TORCH_DIR}/lib/libgomp*.so*)
if(NOT torch_openmp)
  message(FATAL_ERROR "No OpenMP runtime in ${TORCH_DIR}/lib: expected libgomp*.so*, which torch's own packages bring.")
endif()
add_library(softmax_ext_openmp INTERFACE)
target_link_libraries(softmax_ext_openmp INTERFACE ${torch_openmp})

set(torch_runtime_paths ${TORCH_DIR}/lib)
