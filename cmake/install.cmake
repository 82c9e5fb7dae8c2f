# The installed tree is the Python package's: it lies at site-packages/softmax_ext, and torch beside it.

include(CMakePackageConfigHelpers)
set(config_dir share/cmake/softmax_ext)

option(SOFTMAX_EXT_IN_PLACE "install for use from the source tree: torch is then not beside the library" OFF)
if(SOFTMAX_EXT_IN_PLACE)
  set(install_rpath ${torch_runtime_paths})
else()
  list(TRANSFORM cuda_runtime_packages PREPEND $ORIGIN/../../ OUTPUT_VARIABLE install_rpath)
  list(PREPEND install_rpath $ORIGIN/../../torch/lib)
endif()
set_target_properties(softmax_ext PROPERTIES INSTALL_RPATH "${install_rpath}")

file(CONFIGURE OUTPUT torch_version.txt CONTENT "${torch_minor}\n")
configure_package_config_file(
  cmake/softmax_extConfig.cmake.in softmax_extConfig.cmake INSTALL_DESTINATION ${config_dir}
  NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(softmax_extConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS softmax_ext LIBRARY DESTINATION lib)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/torch_version.txt DESTINATION lib)
install(FILES csrc/softmax_ext.h DESTINATION include/softmax_ext)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/softmax_extConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/softmax_extConfigVersion.cmake DESTINATION ${config_dir})
