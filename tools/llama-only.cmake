# Builds libllama and nothing else of llama.cpp when pip compiles llama-cpp-python: a minute and a half on two cores instead of
# five and a half. A plain variable set here shadows the cache entry that llama-cpp-python's CMakeLists.txt forces (CMake CMP0126).
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF)
