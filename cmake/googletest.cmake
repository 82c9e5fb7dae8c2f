# GoogleTest: the system's, or else its release, built here. Sets with_googletest.

set(SOFTMAX_EXT_GOOGLETEST 1 CACHE STRING "GoogleTest: 1, or auto = only if it is installed, else without C++ tests")
include(GoogleTest)
find_package(GTest QUIET)
set(with_googletest ON CACHE INTERNAL "")
if(NOT GTest_FOUND AND SOFTMAX_EXT_GOOGLETEST STREQUAL auto)
  set(with_googletest OFF CACHE INTERNAL "")
  message(STATUS "softmax_ext: NO C++ TESTS (no GoogleTest; set GTest_ROOT)")
elseif(NOT GTest_FOUND)
  include(FetchContent)
  set(INSTALL_GTEST OFF)
  FetchContent_Declare(
    googletest
    URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
    URL_HASH SHA256=8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7
    DOWNLOAD_EXTRACT_TIMESTAMP OFF)
  FetchContent_MakeAvailable(googletest)
endif()
