# The CPU kernels, once per instruction set: csrc/cpu/levels.cpp chooses among them.

set(simd_levels portable)
set(simd_portable_options "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND simd_levels avx2 avx512)
  set(simd_avx2_options -march=x86-64-v3)
  # The headers of GCC 12 use registers uninitialized on purpose, and warn of it.
  set(simd_avx512_options -march=x86-64-v4 -mprefer-vector-width=512 -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

foreach(level IN LISTS simd_levels)
  add_library(
    softmax_ext_simd_${level} OBJECT
    csrc/cpu/simd/backward.cpp
    csrc/cpu/simd/cross_entropy.cpp
    csrc/cpu/simd/entropy.cpp
    csrc/cpu/simd/log_softmax.cpp
    csrc/cpu/simd/masked_softmax.cpp
    csrc/cpu/simd/moments.cpp
    csrc/cpu/simd/reduction.cpp
    csrc/cpu/simd/sampling.cpp
    csrc/cpu/simd/softmax.cpp
    csrc/cpu/simd/weighted_loss.cpp)
  # -O2 whatever the build: without inlining, vectors would go through memory. No errno: a call of exp would set it.
  target_compile_options(softmax_ext_simd_${level} PRIVATE -O2 -fno-math-errno ${simd_${level}_options})
  if("${CMAKE_CXX_FLAGS}" MATCHES "-fsanitize=address")
    # All that is inlined here, with a check at each access of either sanitizer, takes the compiler minutes a file:
    # AddressSanitizer's are calls, of heap memory, and UndefinedBehaviorSanitizer's of pointers are left out.
    target_compile_options(
      softmax_ext_simd_${level}
      PRIVATE -fno-sanitize=alignment,null,object-size,pointer-overflow,vptr -fno-sanitize-address-use-after-scope
              "SHELL:--param asan-stack=0" "SHELL:--param asan-instrumentation-with-call-threshold=0")
  endif()
  target_compile_definitions(softmax_ext_simd_${level} PRIVATE SOFTMAX_EXT_LEVEL=${level})
  target_link_libraries(softmax_ext_simd_${level} PRIVATE softmax_ext_options)
  set_target_properties(softmax_ext_simd_${level} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(softmax_ext PRIVATE softmax_ext_simd_${level})
endforeach()
