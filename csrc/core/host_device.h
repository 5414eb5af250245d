// Functions that run on the host and, compiled by nvcc, on a CUDA device too.
#pragma once

#ifdef __CUDACC__
#define PEEL_HD __host__ __device__
#else
#define PEEL_HD
#endif
