#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "request.h"

namespace allmrec {

// The bytes of text each token stands for, none for special tokens.
struct TokenBytes {
  std::vector<int32_t> offsets{0};
  std::string bytes;
  // Tokens beyond the table have no text.
  void append_to(std::string& text, int32_t token) const {
    if (token >= 0 && static_cast<size_t>(token) + 1 < offsets.size())
      text.append(bytes, static_cast<size_t>(offsets[token]),
                  static_cast<size_t>(offsets[token + 1] - offsets[token]));
  }
};

// Whether a stop sequence ends with the last of the generated tokens: as tokens, or as text, which may begin
// and end inside of tokens.
bool hits_stop(const GenerationOptions& options, const TokenBytes* bytes,
               const std::vector<int32_t>& generated);

}  // namespace allmrec
