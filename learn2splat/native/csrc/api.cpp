// The exported functions: order of the passes, and the pool of renderings.
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "rendering.h"

using namespace l2s;

namespace {

std::mutex pool_mutex;
std::vector<std::unique_ptr<L2sRendering>>& pool() {
    static auto* renderings = new std::vector<std::unique_ptr<L2sRendering>>;  // outlives other statics
    return *renderings;
}
constexpr size_t kPooled = 2;

std::unique_ptr<L2sRendering> take_from_pool() {
    std::lock_guard<std::mutex> lock(pool_mutex);
    if (pool().empty()) return std::make_unique<L2sRendering>();
    auto rendering = std::move(pool().back());
    pool().pop_back();
    return rendering;
}

View make_view(const L2sCameras& cameras, int v) {
    View view = {};
    const float* K = cameras.intrinsics + 9 * v;
    const float* M = cameras.cam_from_world + 16 * v;
    view.fx = K[0];
    view.fy = K[4];
    view.cx = K[2];
    view.cy = K[5];
    for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 3; ++k) view.rotation[i][k] = M[4 * i + k];
        view.translation[i] = M[4 * i + 3];
        view.center[i] = -(M[i] * M[3] + M[4 + i] * M[7] + M[8 + i] * M[11]);
        view.background[i] = cameras.background ? cameras.background[3 * v + i] : 0.0f;
    }
    return view;
}

}  // namespace

extern "C" {

int32_t l2s_vector_lanes() { return W; }

L2sRendering* l2s_render(const L2sScene* scene, const L2sCameras* cameras, const L2sSettings* settings,
                         const L2sImages* out, int32_t threads) try {
    auto r = take_from_pool();
    r->count = scene->count;
    r->views = cameras->views;
    r->width = cameras->width;
    r->height = cameras->height;
    r->tiles_x = (r->width + kTile - 1) / kTile;
    r->tiles_y = (r->height + kTile - 1) / kTile;
    r->with_depth = out->depth != nullptr;
    r->settings = *settings;
    r->statistics = {};
    r->view.resize(r->views);
    for (int v = 0; v < r->views; ++v) r->view[v] = make_view(*cameras, v);
    r->splats.resize(r->views * r->count);
    r->boxes.resize(r->views * r->count);
    r->depths.resize(r->views * r->count);
    project(*r, *scene, out->radii, threads);
    bin(*r, threads);
    blend(*r, *out, threads);
    r->statistics.tile_entries = (int64_t)r->entries.size();
    return r.release();
} catch (const std::bad_alloc&) {
    return nullptr;
}

int32_t l2s_pull_back(L2sRendering* r, const L2sScene* scene, const L2sCotangents* cotangents,
                      const L2sGradients* out, int32_t threads) try {
    pull_back_tiles(*r, *cotangents, threads);
    pull_back_parameters(*r, *scene, *out, threads);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

int32_t l2s_push_forward(L2sRendering* r, const L2sScene* scene, const L2sTangent* tangent, const L2sImages* out,
                         int32_t threads, const uint8_t* wanted) try {
    push_forward_parameters(*r, *scene, *tangent, threads);
    push_forward_tiles(*r, *out, threads, wanted);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

int32_t l2s_curvature(L2sRendering* r, const L2sScene* scene, const float* weights, const L2sCurvature* out,
                      int32_t threads) try {
    curvature_tiles(*r, weights, threads);
    curvature_parameters(*r, *scene, *out, threads);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

void l2s_statistics(const L2sRendering* r, L2sStatistics* out) { *out = r->statistics; }

void l2s_free(L2sRendering* rendering) {
    std::unique_ptr<L2sRendering> r(rendering);
    std::lock_guard<std::mutex> lock(pool_mutex);
    if (pool().size() < kPooled) pool().push_back(std::move(r));
}
}
