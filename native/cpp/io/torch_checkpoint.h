#pragma once

#include "tensor_file.h"

namespace allmrec::io {

// What torch.save wrote, in its zip format and in the stream of pickles before torch 1.6. Tensors are named
// by their keys joined with '.'; a container that alone holds all tensors adds no prefix, so that a
// state_dict inside a list beside its arguments, or under a key, gives its own names.
TensorFileContents read_torch_zip(const InputFile& file);
TensorFileContents read_torch_legacy(const InputFile& file);

}  // namespace allmrec::io
