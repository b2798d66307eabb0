// The launch of the Hopper product: its tensor maps, its schedule and its kernel for a size of tile.
#pragma once

#include <atomic>

#include "gemm_hopper.cuh"

namespace evostreaming::hopper {

constexpr int kMostShared = 227 * 1024 - 512;  // bytes of shared memory a CTA can ask for, less what the kernel declares
constexpr int kDevices = 64;

// How a product is computed. tile: tokens of a CTA; rows, columns: CTAs of a cluster along weight rows and along tokens; stages: of the ring, 2 at
// least since a stage is left one block later, or 0 for as many as fit; split: whether tiles are cut so that all clusters end at once.
struct Way {
  int tile, rows, columns, stages;
  bool split;
};

struct Problem {
  const __nv_bfloat16 *x, *weight;  // (tokens, depth), (width, depth)
  __nv_bfloat16* out;               // (tokens, width)
  void* workspace;                  // zeros in its first kCounters words; it is left so
  std::int64_t workspace_words;
  int tokens, width, depth;
  bool gated;  // out is (tokens, width / 2): of each 16 weight rows, the first 8 are gates of the others
};

// The map of a matrix (rows, depth) of bf16 from which boxes of `box` rows by kDepth columns are copied. The driver's function is asked for at
// run time: the library then loads on machines that have no driver.
inline cudaError_t encode(CUtensorMap& map, const void* matrix, int rows, int depth, int box) {
  static void* found = nullptr;
  if (found == nullptr) {
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    if (error != cudaSuccess) return error;
    if (result != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  }
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(depth), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride = sizes[0] * sizeof(__nv_bfloat16);
  const cuuint32_t boxes[2] = {kDepth, static_cast<cuuint32_t>(box)}, steps[2] = {1, 1};
  const CUresult done = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix), sizes, &stride, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return done == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <bool kGated, int kN, int kParts>
cudaError_t launch_as(const Problem& problem, const Way& way, cudaStream_t stream) {
  constexpr int kTile = kN * kParts;
  const auto kernel = gemm_kernel<kGated, kN, kParts>;
  const int fit = (kMostShared - shared_bytes(kTile, 0)) / stage_bytes(kTile), most_stages = fit < kMostStages ? fit : kMostStages;
  Gemm op{};
  op.stages = way.stages > 0 && way.stages < most_stages ? way.stages : most_stages;
  op.rows = way.rows;
  op.columns = way.columns;
  const int ctas = op.rows * op.columns;

  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = ctas;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = ctas * kCounters;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = shared_bytes(kTile, op.stages);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;

  // Clusters that run at once, asked once for every device and size: neither the number of stages nor anything else changes it.
  static std::atomic<int> known[kDevices][9];
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  if (device >= kDevices) return cudaErrorInvalidDevice;
  int most = known[device][ctas];
  if (most == 0) {
    int major = 0;
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess && major != 9) return cudaErrorNoKernelImageForDevice;  // what was built for others is empty
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
    if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&most, kernel, &config);
    if (error != cudaSuccess) return error;
    if (most <= 0) return cudaErrorLaunchOutOfResources;
    known[device][ctas] = most;
  }

  const auto over = [](int size, int by) { return (size + by - 1) / by; };
  op.out = problem.out;
  op.counters = static_cast<int*>(problem.workspace);
  op.partials = static_cast<float*>(problem.workspace) + kCounters;
  op.tokens = problem.tokens;
  op.width = kGated ? problem.width / 2 : problem.width;
  op.token_tiles = over(problem.tokens, kTile * op.columns);
  op.weights_once = op.token_tiles == 1;
  op.schedule = plan(over(problem.width, kRows * op.rows) * op.token_tiles, over(problem.depth, kDepth), most, way.split);
  const std::int64_t words = kCounters + std::int64_t{2} * op.schedule.clusters * ctas * kRows * kTile;
  if (op.schedule.shared > 0 && (words > problem.workspace_words || op.schedule.shared * ctas * 8 > kCounters)) return cudaErrorMemoryAllocation;

  CUtensorMap weights, tokens;
  error = encode(weights, problem.weight, problem.width, problem.depth, slices(kRows, op.columns).rows);
  if (error == cudaSuccess) error = encode(tokens, problem.x, problem.tokens, problem.depth, slices(kTile, op.rows).rows);
  if (error != cudaSuccess) return error;
  config.gridDim = op.schedule.clusters * ctas;
  return cudaLaunchKernelEx(&config, kernel, weights, tokens, op);
}

template <int kN, int kParts>
cudaError_t launch_tile(const Problem& problem, const Way& way, cudaStream_t stream) {
  return problem.gated ? launch_as<true, kN, kParts>(problem, way, stream) : launch_as<false, kN, kParts>(problem, way, stream);
}

inline cudaError_t launch(const Problem& problem, const Way& way, cudaStream_t stream) {
  switch (way.tile) {
    case 72: return launch_tile<72, 1>(problem, way, stream);
    case 80: return launch_tile<80, 1>(problem, way, stream);
    case 96: return launch_tile<96, 1>(problem, way, stream);
    case 112: return launch_tile<112, 1>(problem, way, stream);
    case 128: return launch_tile<128, 1>(problem, way, stream);
    case 136: return launch_tile<136, 1>(problem, way, stream);
    case 144: return launch_tile<144, 1>(problem, way, stream);
    case 160: return launch_tile<160, 1>(problem, way, stream);
    case 192: return launch_tile<96, 2>(problem, way, stream);
    case 224: return launch_tile<112, 2>(problem, way, stream);
    case 256: return launch_tile<256, 1>(problem, way, stream);
    case 272: return launch_tile<136, 2>(problem, way, stream);
    case 288: return launch_tile<144, 2>(problem, way, stream);
    case 320: return launch_tile<160, 2>(problem, way, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace evostreaming::hopper
