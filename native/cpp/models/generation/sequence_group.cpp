#include "sequence_group.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace allmrec {
namespace {

int32_t last_position(const GenerationRequest& request) {
  return request.positions.empty() ? static_cast<int32_t>(request.ids.size()) - 1 : request.positions.back();
}

bool better(const BeamCandidate& a, const BeamCandidate& b) {
  if (a.score != b.score) return a.score > b.score;
  return a.beam != b.beam ? a.beam < b.beam : a.token < b.token;
}

// The best continuations so far, the worst on top.
void offer(std::vector<BeamCandidate>& heap, size_t most, const BeamCandidate& candidate) {
  if (heap.size() == most) {
    if (!better(candidate, heap.front())) return;
    std::pop_heap(heap.begin(), heap.end(), better);
    heap.back() = candidate;
  } else {
    heap.push_back(candidate);
  }
  std::push_heap(heap.begin(), heap.end(), better);
}

}  // namespace

int32_t SequenceGroup::room(const GenerationRequest& request, int64_t max_positions) {
  const int64_t positions = max_positions - 1 - last_position(request);
  const int64_t longest = request.trie ? request.trie->depth() : std::numeric_limits<int32_t>::max();
  return static_cast<int32_t>(
      std::max<int64_t>(0, std::min({positions, longest, int64_t{request.options.max_new_tokens}})));
}

int32_t SequenceGroup::width(const GenerationRequest& request) {
  return std::max(request.options.beam.beams, request.options.sequences);
}

int64_t SequenceGroup::rows(const GenerationRequest& request, int64_t max_positions) {
  return static_cast<int64_t>(request.ids.size()) +
         int64_t{width(request)} * (room(request, max_positions) - 1);
}

SequenceGroup::SequenceGroup(GenerationRequest request, int64_t start, int64_t max_positions)
    : request_(std::move(request)),
      start_(start),
      prompt_(static_cast<int32_t>(request_.ids.size())),
      first_position_(last_position(request_) + 1),
      room_(room(request_, max_positions)),
      branches_(1) {
  branches_.front().cache.start = start;
  if (request_.options.beam.beams > 1)
    beams_ = std::make_unique<BeamSearch>(request_.options.beam, room_);
  else
    results_.resize(static_cast<size_t>(request_.options.sequences));
}

bool SequenceGroup::plain() const {
  const GenerationOptions& options = request_.options;
  return started_ && !beams_ && !options.sampling.enabled && options.repetition_penalty == 1.0f &&
         !request_.trie && branches_.front().pending.size() == 1;
}

int32_t SequenceGroup::next_position(const Branch& branch) const {
  return first_position_ + branch.cache.length - (branch.cache.prefix > 0 ? 0 : prompt_);
}

int32_t SequenceGroup::rows_left(const Branch& branch) const {
  return room_ - 1 - (next_position(branch) - first_position_);
}

bool SequenceGroup::needs_model(const Branch& branch) const {
  return !started_ || !request_.trie || request_.trie->child_count(branch.node) > 1;
}

NextTokenQuery SequenceGroup::query(const Branch& branch) const {
  const GenerationOptions& options = request_.options;
  NextTokenQuery query;
  query.log_sum = options.log_probs || beams_ || options.sampling.enabled;
  if (request_.trie) {
    query.kind = NextTokenQuery::Kind::children;
    query.trie = request_.trie.get();
    query.node = branch.node;
  } else if (options.sampling.enabled || options.repetition_penalty != 1.0f) {
    query.kind = NextTokenQuery::Kind::all;
  } else {
    query.count = beams_ ? beams_->candidates() : 1;
  }
  return query;
}

void SequenceGroup::fed(Branch& branch) {
  branch.cache.length += started_ ? static_cast<int32_t>(branch.pending.size()) : prompt_;
  branch.pending.clear();
}

bool SequenceGroup::advance(std::vector<NextTokens> next, RepetitionPenalty& penalty, KvCache& cache,
                            GenerationEvents& events) {
  // Where a trie leaves one token, its probability among the children is 1.
  float certain = 0.0f;
  for (size_t b = 0; b < branches_.size(); ++b)
    if (next[b].count == 0) next[b] = {request_.trie->children(branches_[b].node), &certain, 1, 0.0};
  return beams_ ? advance_beams(next, penalty, cache, events) : advance_branches(next, penalty, events);
}

bool SequenceGroup::advance_branches(const std::vector<NextTokens>& next, RepetitionPenalty& penalty,
                                     GenerationEvents& events) {
  const GenerationOptions& options = request_.options;
  const bool forking = !started_ && width(request_) > 1;
  if (forking) fork();
  std::vector<Branch> running;
  std::vector<float> penalised;
  for (size_t b = 0; b < branches_.size(); ++b) {
    Branch& branch = branches_[b];
    NextTokens tokens = next[forking ? 0 : b];
    // log p is the model's own: the penalty works on a copy.
    penalised.assign(tokens.logits, tokens.logits + tokens.count);
    penalty.apply(options.repetition_penalty, request_.seen, branch.generated, tokens, penalised.data());
    NextTokens choice = tokens;
    choice.logits = penalised.data();
    const int64_t place =
        options.sampling.enabled
            ? draw(choice, options.sampling, static_cast<uint64_t>(branch.number), branch.generated.size())
            : most_likely(choice);
    const int32_t token = tokens.id(place);
    const double log_prob = static_cast<double>(tokens.logits[place]) - tokens.log_sum;
    branch.generated.push_back(token);
    branch.pending.push_back(token);
    branch.log_prob += log_prob;
    if (request_.trie) branch.node = request_.trie->step(branch.node, token);
    if (options.stream) events.tokens.push_back({request_.id, token, log_prob});
    FinishReason reason;
    if (!ends(branch.generated, reason)) {
      running.push_back(std::move(branch));
      continue;
    }
    GeneratedSequence& sequence = results_[static_cast<size_t>(branch.number)];
    sequence = result(branch, reason);
  }
  started_ = true;
  branches_ = std::move(running);
  if (!branches_.empty()) return false;
  events.finished.push_back({request_.id, std::move(results_)});
  return true;
}

bool SequenceGroup::advance_beams(const std::vector<NextTokens>& next, RepetitionPenalty& penalty,
                                  KvCache& cache, GenerationEvents& events) {
  const auto most = static_cast<size_t>(beams_->candidates());
  std::vector<BeamCandidate> best;
  std::vector<float> scores;
  for (size_t b = 0; b < branches_.size(); ++b) {
    const NextTokens& tokens = next[b];
    const Branch& branch = branches_[b];
    scores.resize(static_cast<size_t>(tokens.count));
    for (int64_t i = 0; i < tokens.count; ++i)
      scores[i] = static_cast<float>(static_cast<double>(tokens.logits[i]) - tokens.log_sum);
    penalty.apply(request_.options.repetition_penalty, request_.seen, branch.generated, tokens,
                  scores.data());
    for (int64_t i = 0; i < tokens.count; ++i)
      offer(best, most,
            {static_cast<int32_t>(b), tokens.id(i), branch.score + scores[i],
             branch.log_prob + (static_cast<double>(tokens.logits[i]) - tokens.log_sum)});
  }
  std::sort(best.begin(), best.end(), better);
  std::vector<GeneratedSequence> endings(best.size());
  std::vector<GeneratedSequence*> ended(best.size(), nullptr);
  for (size_t i = 0; i < best.size(); ++i) {
    Branch branch;
    branch.generated = branches_[best[i].beam].generated;
    branch.generated.push_back(best[i].token);
    if (request_.trie) branch.node = request_.trie->step(branches_[best[i].beam].node, best[i].token);
    FinishReason reason;
    if (!ends(branch.generated, reason)) continue;
    endings[i] = result(branch, reason);
    ended[i] = &endings[i];
  }
  const std::vector<BeamCandidate> running = beams_->advance(best, ended);
  if (beams_->done()) {
    std::vector<GeneratedSequence>& finished = beams_->finished();
    const auto wanted = static_cast<size_t>(request_.options.sequences);
    if (finished.size() > wanted) finished.resize(wanted);
    events.finished.push_back({request_.id, std::move(finished)});
    return true;
  }
  std::vector<Branch> going;
  std::vector<int32_t> parents;
  for (const BeamCandidate& candidate : running) {
    Branch branch = branches_[candidate.beam];
    branch.generated.push_back(candidate.token);
    branch.pending.push_back(candidate.token);
    branch.score = candidate.score;
    branch.log_prob = candidate.log_prob;
    if (request_.trie) branch.node = request_.trie->step(branch.node, candidate.token);
    going.push_back(std::move(branch));
    parents.push_back(candidate.beam);
  }
  place(going, parents, cache);
  branches_ = std::move(going);
  started_ = true;
  return false;
}

// Every sample begins behind the prompt.
void SequenceGroup::fork() {
  const int32_t samples = width(request_);
  branches_.resize(static_cast<size_t>(samples));
  for (int32_t b = 0; b < samples; ++b) {
    Branch& branch = branches_[static_cast<size_t>(b)];
    branch.number = branch.segment = b;
    branch.cache = {start_, prompt_, prompt_ + b * (room_ - 1), 0};
  }
}

// Gives each beam a segment with its parent's keys. The first to go on from a parent keeps the parent's; only
// the others are copied, into segments that nothing goes on from.
void SequenceGroup::place(std::vector<Branch>& next, const std::vector<int32_t>& parents, KvCache& cache) {
  std::vector<char> taken(static_cast<size_t>(width(request_)), 0);
  std::vector<char> kept(branches_.size(), 0), keeps(next.size(), 0);
  if (started_)
    for (size_t b = 0; b < next.size(); ++b) {
      char& inherited = kept[static_cast<size_t>(parents[b])];
      keeps[b] = !inherited;
      if (keeps[b]) taken[static_cast<size_t>(next[b].segment)] = 1;
      inherited = 1;
    }
  int32_t unused = 0;
  for (size_t b = 0; b < next.size(); ++b) {
    if (keeps[b]) continue;
    while (taken[static_cast<size_t>(unused)]) ++unused;
    const CachedSequence from = next[b].cache;
    CachedSequence& to = next[b].cache;
    next[b].segment = unused;
    taken[static_cast<size_t>(unused)] = 1;
    to = {start_, prompt_, prompt_ + unused * (room_ - 1), started_ ? from.length : 0};
    cache.copy(start_ + from.begin, start_ + to.begin, to.length);
  }
}

bool SequenceGroup::ends(const std::vector<int32_t>& generated, FinishReason& reason) const {
  if (generated.back() == request_.options.eos_id)
    reason = FinishReason::eos;
  else if (hits_stop(request_, generated))
    reason = FinishReason::stop;
  else if (generated.size() >= static_cast<size_t>(room_))
    reason = FinishReason::length;
  else
    return false;
  return true;
}

GeneratedSequence SequenceGroup::result(const Branch& branch, FinishReason reason) const {
  GeneratedSequence sequence;
  sequence.ids = branch.generated;
  sequence.reason = reason;
  sequence.log_prob = sequence.score = branch.log_prob;
  if (request_.trie && reason == FinishReason::eos) sequence.entry = request_.trie->entry(branch.node);
  return sequence;
}

FinishedRequest SequenceGroup::abort() const {
  FinishedRequest finished{request_.id, results_};
  if (beams_) finished.sequences.resize(static_cast<size_t>(request_.options.sequences));
  for (GeneratedSequence& sequence : finished.sequences)
    if (sequence.ids.empty()) sequence.reason = FinishReason::abort;
  for (size_t b = 0; b < branches_.size(); ++b) {
    const size_t at = beams_ ? b : static_cast<size_t>(branches_[b].number);
    if (at < finished.sequences.size()) finished.sequences[at] = result(branches_[b], FinishReason::abort);
  }
  return finished;
}

}  // namespace allmrec
