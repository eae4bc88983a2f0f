// The data that flows from one pass to the next.
//
//   project  ->  splats, boxes, radii    one per (view, Gaussian)
//   bin      ->  entries                 the Gaussians of each tile, front to back
//   blend    ->  images; masks, last, transmittance
//   pull_back_tiles       ->  rows       one per (Gaussian, tile): derivatives by the splat's screen quantities
//   pull_back_parameters  ->  gradients by the raw parameters
//
// On the same rendering, with all its decisions as they were taken:
//   push_forward_parameters  ->  tangents        of each splat
//   push_forward_tiles       ->  images          J v
//   curvature_tiles          ->  curvature_rows  one per (Gaussian, tile): second moments of screen derivatives
//   curvature_parameters     ->  diagonal and blocks of J^T W J
#pragma once

#include <ctime>

#include "api.h"
#include "memory.h"
#include "simd.h"

namespace l2s {

constexpr int kTile = 16;         // pixels along a tile
constexpr int kBlockWidth = 4;    // a block is the W pixels of one vector
constexpr int kBlockHeight = W / kBlockWidth;
constexpr int kBlocksPerRow = kTile / kBlockWidth;
constexpr int kBlocks = kTile * kTile / W;  // per tile
constexpr int kTilePixels = kTile * kTile;

constexpr int kPrefetchAhead = 48;  // entries: a splat comes from the second- or third-level cache

constexpr float kMinAlpha = 1.0f / 255.0f;
constexpr float kLog2MinAlpha = -7.99435344f;
constexpr float kMinTransmittance = 1e-4f;
constexpr float kMaxExtentSigma = 3.33f;
constexpr float kLn2 = 0.693147181f;

#if defined(__AVX512F__)
typedef uint16_t BlockMask;
#elif defined(__AVX2__)
typedef uint32_t BlockMask;
#else
typedef uint64_t BlockMask;
#endif
static_assert(sizeof(BlockMask) * 8 == kBlocks, "one bit per block");

// A Gaussian on the screen. At pixel p, with (u, v) = [a b; 0 c] (p - mean): log2 alpha = log2_opacity - u^2 - v^2.
// This whitened form is never above the opacity by rounding, and its factors stay accurate for needles.
struct alignas(64) Splat {
    float mean_x, mean_y;  // pixels
    float a, b, c;
    float log2_opacity;
    float red, green, blue;
    float depth;
    float x_per_y, y_per_x;  // where u^2 + v^2 is least along a row, a column
    float cut;               // u^2 + v^2 beyond which alpha < 1/255, a little enlarged
    float unused[3];
};
static_assert(sizeof(Splat) == 64, "one cache line");

// Tiles [x0, x1) x [y0, y1) in which a Gaussian can reach alpha 1/255.
struct TileBox {
    uint16_t x0, y0, x1, y1;
    int count() const { return (x1 - x0) * (y1 - y0); }
};

// One (Gaussian, tile) pair.
struct Entry {
    uint32_t gaussian, row;  // row: relative to the view's first
};

// Derivatives of one entry. With g = dL / d ln(alpha) at a pixel, sums over the tile's pixels of
// g (1, u, v, u^2, u v, v^2), and of the blending weight times the cotangents of colour and depth.
enum RowField { kG, kGu, kGv, kGuu, kGuv, kGvv, kRed, kGreen, kBlue, kDepth, kUsedRowFields, kRowFields = 16 };
struct alignas(64) Row {
    float field[kRowFields];
};

// Second moments of one entry, weighted and summed over pixels and channels. With g as above for the one channel:
// kMij is the sum of g^2 u^i v^j; kCross + 5 c + k of channel c's g w (u, v, u^2, u v, v^2); kColor2 + c of w^2.
enum CurvatureField {
    kM00, kM20, kM11, kM02, kM30, kM21, kM12, kM03, kM40, kM31, kM22, kM13, kM04,
    kCross,
    kColor2 = kCross + 15,
    kCurvatureFields = 32
};
struct alignas(64) CurvatureRow {
    float field[kCurvatureFields];
};
static_assert(kColor2 + 3 <= kCurvatureFields, "two cache lines");
constexpr int kBlockSide = 10;  // mean, scales and quaternion

struct View {
    float rotation[3][3], translation[3], center[3];  // camera from world; camera centre in the world
    float fx, fy, cx, cy;
    float background[3];
};

}  // namespace l2s

struct L2sRendering {
    int64_t count;  // Gaussians
    int views, width, height, tiles_x, tiles_y;
    bool with_depth;
    L2sSettings settings;
    L2sStatistics statistics;

    l2s::Buffer<l2s::View> view;
    l2s::Buffer<l2s::Splat> splats;     // [views, count], written where drawn
    l2s::Buffer<l2s::TileBox> boxes;    // [views, count], empty where not drawn
    l2s::Buffer<float> depths;          // [views, count], written where drawn
    l2s::Buffer<int32_t> first_row;     // [views, count], relative to the view's first row
    l2s::Buffer<uint32_t> depth_order;  // [views, count], Gaussians with a tile, front to back
    l2s::Buffer<uint64_t> sort_scratch;
    l2s::Buffer<int64_t> tile_begin;    // [views * tiles + 1] into entries
    l2s::Buffer<int64_t> row_begin;     // [views + 1] into rows
    l2s::Buffer<int32_t> drawn;         // [views] Gaussians with a tile
    l2s::Buffer<l2s::Entry> entries;    // by tile, front to back
    l2s::Buffer<l2s::BlockMask> masks;  // per entry: blocks that the forward pass evaluated
    l2s::Buffer<float> transmittance;   // [views, tiles, 256] in block order
    l2s::Buffer<int32_t> last;          // likewise: entry of the tile after which the pixel had stopped
    l2s::Buffer<l2s::Row> rows;         // per entry, in order of (view, Gaussian, tile)
    l2s::Buffer<l2s::Row> tangents;     // [views, count], written where drawn
    l2s::Buffer<l2s::CurvatureRow> curvature_rows;  // like rows
    l2s::Buffer<uint8_t> touched;       // per row of the last sweep: whether it was written

    int tiles() const { return tiles_x * tiles_y; }
};

namespace l2s {

// CPU time of the calling thread.
inline double thread_seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void project(L2sRendering& r, const L2sScene& scene, int32_t* radii, int threads);
void bin(L2sRendering& r, int threads);
void blend(L2sRendering& r, const L2sImages& out, int threads);
void pull_back_tiles(L2sRendering& r, const L2sCotangents& cotangents, int threads);
void pull_back_parameters(const L2sRendering& r, const L2sScene& scene, const L2sGradients& out, int threads);
void push_forward_parameters(L2sRendering& r, const L2sScene& scene, const L2sTangent& tangent, int threads);
void push_forward_tiles(const L2sRendering& r, const L2sImages& out, int threads, const uint8_t* wanted);
void curvature_tiles(L2sRendering& r, const float* weights, int threads);
void curvature_parameters(const L2sRendering& r, const L2sScene& scene, const L2sCurvature& out, int threads);

}  // namespace l2s
