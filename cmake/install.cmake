# What `cmake --install` puts where: header, libraries, and what CMake and pkg-config find them by.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(FILES csrc/device/peel.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS ${PEEL_LIBRARIES} EXPORT peelTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(PEEL_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/peel)
install(EXPORT peelTargets NAMESPACE peel:: DESTINATION ${PEEL_CMAKE_DIR})
configure_package_config_file(cmake/peelConfig.cmake.in peelConfig.cmake
  INSTALL_DESTINATION ${PEEL_CMAKE_DIR})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/peelConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/peelConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/peelConfigVersion.cmake DESTINATION ${PEEL_CMAKE_DIR})

# Found from where the file itself lies, so that what was installed can be moved.
file(RELATIVE_PATH PEEL_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
set(PEEL_PC_PRIVATE "${CMAKE_THREAD_LIBS_INIT}")
foreach(name ${PEEL_LANGUAGE_LIBRARIES})
  string(APPEND PEEL_PC_PRIVATE " -l${name}")
endforeach()
configure_file(cmake/peel.pc.in peel.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/peel.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
