// The launch of the gated product: its tensor maps and its kernel for a size of tile.
#pragma once

#include <atomic>

#include "gated_gemm.cuh"

namespace evostreaming::hopper {

constexpr int kMostShared = 227 * 1024 - 512;  // bytes of shared memory a CTA can ask for, less what the kernel declares
constexpr int kDevices = 64;

// How a product is computed. tile, height: tokens and weight rows of a CTA; rows, columns: CTAs of a cluster along weight rows and along tokens.
struct Way {
  int tile, height, rows, columns;
};

struct Problem {
  const __nv_bfloat16 *x, *weight, *bias;  // (tokens, depth); (2 * width, depth), gates first; (2 * width,) or null
  __nv_bfloat16* out;                      // (tokens, width)
  int tokens, width, depth;
};

// The map of a matrix (rows, depth) of bf16 from which boxes of `box` rows by kDepth columns are copied; sixteens: of a weight, whose rows then
// come eight gates, the eight of what they gate, the next eight gates. The driver's function is asked for at run time: the library then loads on
// machines that have no driver.
inline cudaError_t encode(CUtensorMap& map, const void* matrix, int rows, int depth, int box, bool sixteens) {
  static void* found = nullptr;
  if (found == nullptr) {
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    if (error != cudaSuccess) return error;
    if (result != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  }
  const auto number = [](int value) { return static_cast<cuuint64_t>(value); };
  const cuuint64_t line = number(depth) * sizeof(__nv_bfloat16);
  const cuuint64_t sizes[2] = {number(depth), number(rows)}, weight_sizes[4] = {number(depth), 8, 2, number(rows / 16)};
  const cuuint64_t strides[1] = {line}, weight_strides[3] = {line, rows / 2 * line, 8 * line};
  const cuuint32_t boxes[2] = {kDepth, static_cast<cuuint32_t>(box)}, weight_boxes[4] = {kDepth, 8, 2, static_cast<cuuint32_t>(box / 16)};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  const CUresult done = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, sixteens ? 4 : 2, const_cast<void*>(matrix), sixteens ? weight_sizes : sizes, sixteens ? weight_strides : strides,
      sixteens ? weight_boxes : boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return done == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <int kGroups, int kN, int kParts>
cudaError_t launch_as(const Problem& problem, const Way& way, cudaStream_t stream) {
  constexpr int kTile = kN * kParts, kRows = kGroups * kGroupRows;
  constexpr int kFit = (kMostShared - shared_bytes(kGroups, kTile, 0)) / stage_bytes(kGroups, kTile);
  const auto kernel = gated_gemm_kernel<kGroups, kN, kParts>;
  const auto over = [](int size, int by) { return (size + by - 1) / by; };
  GatedGemm op{};
  op.out = problem.out;
  op.bias = problem.bias;
  op.tokens = problem.tokens;
  op.width = problem.width;
  op.blocks = over(problem.depth, kDepth);
  op.rows = way.rows;
  op.columns = way.columns;
  op.stages = kFit < kMostStages ? kFit : kMostStages;
  op.token_tiles = over(problem.tokens, kTile * op.columns);
  op.tiles = over(2 * problem.width, kRows * op.rows) * op.token_tiles;
  op.weights_once = op.token_tiles == 1;
  const int ctas = op.rows * op.columns;

  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = ctas;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = ctas * 4096;
  config.blockDim = Threads<kGroups>::kAll;
  config.dynamicSmemBytes = shared_bytes(kGroups, kTile, op.stages);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;

  // Clusters that run at once, asked once for every device and size.
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

  CUtensorMap weights, tokens;
  error = encode(weights, problem.weight, 2 * problem.width, problem.depth, slices(kRows, op.columns).rows, true);
  if (error == cudaSuccess) error = encode(tokens, problem.x, problem.tokens, problem.depth, slices(kTile, op.rows).rows, false);
  if (error != cudaSuccess) return error;
  config.gridDim = (op.tiles < most ? op.tiles : most) * ctas;
  return cudaLaunchKernelEx(&config, kernel, weights, tokens, op);
}

template <int kN, int kParts>
cudaError_t launch_tile(const Problem& problem, const Way& way, cudaStream_t stream) {
  if (way.height == 128) return launch_as<2, kN, kParts>(problem, way, stream);
  if constexpr (kN * kParts <= 160)  // three warpgroups have registers for no more
    if (way.height == 192) return launch_as<3, kN, kParts>(problem, way, stream);
  return cudaErrorInvalidValue;
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
