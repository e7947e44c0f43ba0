#include "stopping.h"

#include <algorithm>

namespace allmrec {

bool hits_stop(const GenerationRequest& request, const std::vector<int32_t>& generated) {
  const GenerationOptions& options = request.options;
  const TokenBytes* bytes = request.bytes.get();
  for (const std::vector<int32_t>& stop : options.stop_tokens)
    if (stop.size() <= generated.size() && std::equal(stop.rbegin(), stop.rend(), generated.rbegin()))
      return true;
  if (options.stop_bytes.empty() || bytes == nullptr || generated.empty()) return false;
  size_t longest = 0;
  for (const std::string& stop : options.stop_bytes) longest = std::max(longest, stop.size());
  // As many tokens as the longest stop can reach back from the last one; what lies wholly before the last
  // token would have been found earlier.
  size_t first = generated.size() - 1, reached = 0;
  std::string text;
  while (first > 0 && reached + 1 < longest) {
    text.clear();
    bytes->append_to(text, generated[--first]);
    reached += text.size();
  }
  text.clear();
  size_t last_begin = 0;
  for (size_t i = first; i < generated.size(); ++i) {
    last_begin = text.size();
    bytes->append_to(text, generated[i]);
  }
  if (text.size() == last_begin) return false;  // the last token has no text
  for (const std::string& stop : options.stop_bytes) {
    const size_t from = last_begin + 1 > stop.size() ? last_begin + 1 - stop.size() : 0;
    if (text.find(stop, from) != std::string::npos) return true;
  }
  return false;
}

}  // namespace allmrec
