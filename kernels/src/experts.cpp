// A mixture of experts: each token goes through the few that its router chooses.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "step.h"

namespace {

// Which experts a token goes to, and with what weight (openbook/lm/experts.py has the equations).
void choose(const Experts& e, const float* scores, int* chosen, float* weight) {
  int count = (int)e.experts.size();
  std::vector<int> order((size_t)count);
  std::iota(order.begin(), order.end(), 0);
  std::vector<float> rank(scores, scores + count);
  float top = *std::max_element(scores, scores + count), total = 0;
  if (!e.noisy) {
    for (int i = 0; i < count; i++) total += rank[(size_t)i] = std::exp(scores[i] - top);
    for (int i = 0; i < count; i++) rank[(size_t)i] /= total;
  }
  std::vector<float> share = rank;
  for (size_t i = 0; i < e.balance.size(); i++) rank[i] += e.balance[i];
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rank[(size_t)a] > rank[(size_t)b]; });
  std::copy_n(order.begin(), e.active, chosen);
  if (!e.noisy && !e.renormalise) {
    for (int i = 0; i < e.active; i++) weight[i] = share[(size_t)chosen[i]];
    return;
  }
  // Renormalised, shares are the softmax of the chosen scores, which never divides nothing by nothing.
  top = -INFINITY, total = 0;
  for (int i = 0; i < e.active; i++) top = std::max(top, scores[chosen[i]]);
  for (int i = 0; i < e.active; i++) total += weight[i] = std::exp(scores[chosen[i]] - top);
  for (int i = 0; i < e.active; i++) weight[i] /= total;
}

}  // namespace

void Step::experts(const Experts& e, const float* in, float* out, bool add, int member) {
  int width = model.width, stride = padded(width), count = (int)e.experts.size(), shares = n * e.active;
  int inner = e.experts[0].up.matrix.rows, wide = padded(inner), routes = padded(count);
  team.each(1, [&](int) {
    w.scores.take((size_t)n * routes);
    w.chosen.assign((size_t)shares, 0), w.weight.assign((size_t)shares, 0);
    w.first_of.assign((size_t)count + 1, 0), w.rows_of.assign((size_t)shares, 0);
    int widest = std::max({wide, stride, e.shared ? padded(e.shared->up.matrix.rows) : 0});
    w.h.take((size_t)shares * widest);
    w.up.take((size_t)shares * widest);
  });
  int taken = e.router.taken() | e.experts[0].up.taken() | (e.experts[0].gate ? e.experts[0].gate->taken() : 0);
  Activations router = prepare(in, n, width, nullptr, e.router.taken(), member);
  multiply(e.router, router, n, w.scores.data(), routes, false);
  each_row(n, [&](int t) {
    choose(e, w.scores.data() + (size_t)t * routes, w.chosen.data() + (size_t)t * e.active, w.weight.data() + (size_t)t * e.active);
  });
  // Shares sorted by expert: row i of an expert's work is share rows_of[first_of[expert] + i].
  team.each(1, [&](int) {
    for (int s = 0; s < shares; s++) w.first_of[(size_t)w.chosen[(size_t)s] + 1]++;
    for (int i = 0; i < count; i++) w.first_of[(size_t)i + 1] += w.first_of[(size_t)i];
    std::vector<int> next(w.first_of.begin(), w.first_of.end() - 1);
    for (int s = 0; s < shares; s++) w.rows_of[(size_t)next[(size_t)w.chosen[(size_t)s]]++] = s;
    w.expert.shape(shares, width, taken);
  });
  Activations given = w.expert.shape(shares, width, taken);
  each_row(shares, [&](int i) {
    k.prepare(in + (size_t)(w.rows_of[(size_t)i] / e.active) * stride, width, taken, given, i);
  });
  float *h = w.h.data(), *up = w.up.data();
  team.each(count, [&](int i) {
    int a = w.first_of[(size_t)i], b = w.first_of[(size_t)i + 1];
    if (a == b) return;
    const FeedForward& ff = e.experts[(size_t)i];
    if (ff.gate && ff.gate->matrix.form == ff.up.matrix.form) {
      k.glu(ff.gate->panels(), ff.up.panels(), 0, ff.up.matrix.panels, given, a, b, ff.act, nullptr, nullptr, h, wide);
      return;
    }
    const Linear& first = ff.gate ? *ff.gate : ff.up;
    k.multiply(first.panels(), 0, first.matrix.panels, given, a, b, {h, wide, nullptr, false});
    if (ff.gate) k.multiply(ff.up.panels(), 0, ff.up.matrix.panels, given, a, b, {up, wide, nullptr, false});
    for (int r = a; r < b; r++) {
      k.activate(h + (size_t)r * wide, inner, ff.act);
      if (ff.gate) k.times(h + (size_t)r * wide, up + (size_t)r * wide, inner);
    }
  });
  int down_taken = e.experts[0].down.taken();
  team.each(1, [&](int) { w.expert.shape(shares, inner, down_taken); });
  Activations inside = w.expert.shape(shares, inner, down_taken);
  each_row(shares, [&](int i) { k.prepare(h + (size_t)i * wide, inner, down_taken, inside, i); });
  float* made = w.up.data();
  team.each(count, [&](int i) {
    int a = w.first_of[(size_t)i], b = w.first_of[(size_t)i + 1];
    const Linear& down = e.experts[(size_t)i].down;
    if (a < b) k.multiply(down.panels(), 0, down.matrix.panels, inside, a, b, {made, stride, nullptr, false});
  });
  // Each token's shares in the order they were chosen, whatever order they were computed in.
  team.each(1, [&](int) {
    std::vector<int> where((size_t)shares);
    for (int i = 0; i < shares; i++) where[(size_t)w.rows_of[(size_t)i]] = i;
    w.rows_of.swap(where);
  });
  each_row(n, [&](int t) {
    float* to = out + (size_t)t * stride;
    if (!add) std::memset(to, 0, sizeof(float) * (size_t)stride);
    for (int s = t * e.active; s < (t + 1) * e.active; s++)
      k.add(to, made + (size_t)w.rows_of[(size_t)s] * stride, width, w.weight[(size_t)s]);
  });
  if (!e.shared) return;
  Activations all = prepare(in, n, width, nullptr,
                            e.shared->up.taken() | (e.shared->gate ? e.shared->gate->taken() : 0) |
                                (e.shared_gate ? e.shared_gate->taken() : 0), member);
  if (e.shared_gate) multiply(*e.shared_gate, all, n, w.scores.data(), routes, false);
  if (!e.shared_gate) {
    feed_forward(*e.shared, all, n, out, stride, true, member);
    return;
  }
  team.each(1, [&](int) { w.hidden.take((size_t)std::max(n, (int)w.wanted.size()) * stride); });
  feed_forward(*e.shared, all, n, w.hidden.data(), stride, false, member);
  each_row(n, [&](int t) {
    float gate = 1.f / (1.f + std::exp(-w.scores.data()[(size_t)t * routes]));
    k.add(out + (size_t)t * stride, w.hidden.data() + (size_t)t * stride, width, gate);
  });
}
