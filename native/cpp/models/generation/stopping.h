#pragma once

#include <cstdint>
#include <vector>

#include "request.h"

namespace allmrec {

// Whether a stop sequence ends with the last of the generated tokens: as tokens, or as text, which may begin
// and end inside of tokens.
bool hits_stop(const GenerationRequest& request, const std::vector<int32_t>& generated);

}  // namespace allmrec
