# Decides whether the CUDA kernels are built, says so in one line, and makes with_cuda, nvcc_options and the target
# softmax_ext_torch_cuda. Whether a GPU is present plays no part.

set(SOFTMAX_EXT_CUDA auto CACHE STRING "build the CUDA kernels: 1, 0, or auto = when torch has CUDA and nvcc is found")
set(SOFTMAX_EXT_CUDA_PACKAGES "" CACHE PATH "nvidia/cu<major> of a Python environment, for where no other nvcc is found; \
empty: that of torch's environment")
set(SOFTMAX_EXT_ARCHS "80;90" CACHE STRING "architectures to generate code for, and PTX for the last")

string(TOLOWER "${SOFTMAX_EXT_CUDA}" wanted)
if(NOT wanted MATCHES "^(auto|1|0|on|off)$")
  message(FATAL_ERROR "SOFTMAX_EXT_CUDA: expected auto, 1 or 0, got '${SOFTMAX_EXT_CUDA}'.")
endif()

set(with_cuda OFF)
if(wanted MATCHES "^(0|off)$")
  set(reason "SOFTMAX_EXT_CUDA=${SOFTMAX_EXT_CUDA}")
else()
  if(EXISTS ${TORCH_DIR}/lib/libtorch_cuda.so)
    # The runtime that torch was built against, read from what its library asks the loader for.
    file(STRINGS ${TORCH_DIR}/lib/libc10_cuda.so torch_cudart REGEX "^libcudart[^/]*[.]so[.][0-9]+" LIMIT_COUNT 1)
    string(REGEX MATCH "[0-9]+$" torch_cuda_major "${torch_cudart}")
    include(cmake/nvcc.cmake)
    if(CMAKE_CUDA_COMPILER)
      set(with_cuda ON)
    else()
      set(reason "there is no nvcc: none named by CUDACXX, nor in CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin")
      if(torch_cuda_major GREATER_EQUAL 13)
        string(APPEND reason ", nor the packages cuda-toolkit[cccl,crt,cudart,nvcc,nvvm] beside torch")
      endif()
    endif()
  else()
    set(reason "torch in ${TORCH_DIR} has no CUDA: it has no lib/libtorch_cuda.so")
  endif()
  if(NOT with_cuda AND NOT wanted STREQUAL auto)
    message(FATAL_ERROR "SOFTMAX_EXT_CUDA=${SOFTMAX_EXT_CUDA}, but ${reason}.")
  endif()
endif()

if(NOT with_cuda)
  message(STATUS "softmax_ext ${PROJECT_VERSION} for torch ${torch_version}: WITHOUT CUDA KERNELS (${reason})")
  return()
endif()

# In order, as PTX is made for the last: simt::has_clusters() relies on it being the newest.
list(SORT SOFTMAX_EXT_ARCHS COMPARE NATURAL)
foreach(arch IN LISTS SOFTMAX_EXT_ARCHS)
  if(NOT arch MATCHES "^[0-9]+[af]?$")
    message(FATAL_ERROR "SOFTMAX_EXT_ARCHS: expected a list such as 80;90, got '${SOFTMAX_EXT_ARCHS}'.")
  endif()
  list(APPEND nvcc_options -gencode=arch=compute_${arch},code=sm_${arch})
endforeach()
list(GET SOFTMAX_EXT_ARCHS -1 newest)
list(APPEND nvcc_options -gencode=arch=compute_${newest},code=compute_${newest})

set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

if(NOT CUDAToolkit_VERSION_MAJOR EQUAL torch_cuda_major)
  message(
    FATAL_ERROR
      "nvcc is of CUDA ${CUDAToolkit_VERSION_MAJOR} (${CMAKE_CUDA_COMPILER}), but torch ${torch_version} was built for "
      "CUDA ${torch_cuda_major} (${TORCH_DIR}).\n"
      "Set CUDACXX to an nvcc of CUDA ${torch_cuda_major} and remove ${CMAKE_BINARY_DIR}, install a torch for CUDA ${CUDAToolkit_VERSION_MAJOR}, "
      "or set SOFTMAX_EXT_CUDA=0.")
endif()

string(REPLACE ";" ", sm_" archs "${SOFTMAX_EXT_ARCHS}")
message(STATUS "softmax_ext ${PROJECT_VERSION} for torch ${torch_version}: WITH CUDA KERNELS for sm_${archs} and "
               "compute_${newest} (CUDA ${CUDAToolkit_VERSION}, ${CMAKE_CUDA_COMPILER})")

# -std is passed by hand as CMake 3.25 does not know C++20 of every nvcc.
list(APPEND nvcc_options -std=c++20 --expt-relaxed-constexpr -Xcompiler=-Wall,-ffp-contract=off)
if(SOFTMAX_EXT_WERROR)
  list(APPEND nvcc_options --no-compress) # tools/check_kernels.py reads the machine code
elseif(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8)
  list(APPEND nvcc_options --compress-mode=size)
endif()
if(SOFTMAX_EXT_WERROR)
  list(APPEND nvcc_options -Xptxas=-warn-spills,-warn-lmem-usage,-Werror)
else()
  list(APPEND nvcc_options -Xptxas=-warn-spills,-warn-lmem-usage)
endif()

add_library(softmax_ext_torch_cuda INTERFACE)
target_link_libraries(
  softmax_ext_torch_cuda INTERFACE ${TORCH_DIR}/lib/libtorch_cuda.so ${TORCH_DIR}/lib/libc10_cuda.so CUDA::cudart)
target_include_directories(softmax_ext_torch_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})

# Where the Python packages of the CUDA runtime lie, relative to torch's.
set(cuda_runtime_packages nvidia/cu${torch_cuda_major}/lib nvidia/cuda_runtime/lib)
list(TRANSFORM cuda_runtime_packages PREPEND ${TORCH_DIR}/../ OUTPUT_VARIABLE paths)
list(APPEND torch_runtime_paths ${paths})
