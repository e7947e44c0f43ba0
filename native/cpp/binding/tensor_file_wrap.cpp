#include "../io/tensor_file.h"

#include <napi.h>

#include "../io/safetensors.h"
#include "classes.h"
#include "convert.h"

namespace allmrec::binding {
namespace {

// NativeTensorFile. The constructor takes the path; only openTensorFile calls it.
class TensorFileWrap : public Napi::ObjectWrap<TensorFileWrap> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "TensorFile",
                       {InstanceAccessor<&TensorFileWrap::format>("format"),
                        InstanceMethod("tensors", &TensorFileWrap::tensors),
                        InstanceMethod("metadata", &TensorFileWrap::metadata),
                        InstanceMethod("readFloat32", &TensorFileWrap::read_float32),
                        InstanceMethod("readInt64", &TensorFileWrap::read_int64),
                        InstanceMethod("close", &TensorFileWrap::close)});
  }

  explicit TensorFileWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] { file_ = io::TensorFile::open(read_string(info[0], "path")); });
  }

 private:
  const io::TensorFile& file() const {
    if (!file_) throw Error(ErrorCode::disposed, "The tensor file is used after close().");
    return *file_;
  }

  Napi::Value format(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return Napi::String::New(info.Env(), file().format()); });
  }

  Napi::Value tensors(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const Napi::Env env = info.Env();
      Napi::Array array = Napi::Array::New(env, file().tensors().size());
      uint32_t i = 0;
      for (const io::TensorInfo& tensor : file().tensors()) {
        const Napi::HandleScope scope(env);
        Napi::Object object = Napi::Object::New(env);
        object.Set("name", tensor.name);
        object.Set("dtype", io::dtype_name(tensor.dtype));
        object.Set("shape", to_js(env, tensor.shape));
        array.Set(i++, object);
      }
      return array;
    });
  }

  Napi::Value metadata(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return to_js(info.Env(), file().metadata()); });
  }

  Napi::Value read_float32(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const io::TensorInfo& tensor = file().require(read_string(info[0], "name"));
      Napi::Float32Array array =
          Napi::Float32Array::New(info.Env(), static_cast<size_t>(tensor.element_count()));
      file().read_f32(tensor, array.Data());
      return array;
    });
  }

  Napi::Value read_int64(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const io::TensorInfo& tensor = file().require(read_string(info[0], "name"));
      Napi::BigInt64Array array =
          Napi::BigInt64Array::New(info.Env(), static_cast<size_t>(tensor.element_count()));
      file().read_i64(tensor, array.Data());
      return array;
    });
  }

  void close(const Napi::CallbackInfo&) { file_.reset(); }

  std::shared_ptr<const io::TensorFile> file_;
};

}  // namespace

Napi::Function define_tensor_file(Napi::Env env) {
  return TensorFileWrap::define(env);
}

void write_safetensors(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const std::string path = read_string(info[0], "path");
    if (!info[1].IsArray()) expected("tensors", "an array", info[1]);
    const Napi::Array array = info[1].As<Napi::Array>();
    std::vector<io::TensorToWrite> tensors;
    std::vector<std::vector<float>> data;
    for (uint32_t i = 0; i < array.Length(); ++i) {
      const Fields fields(array.Get(i), "tensors[" + std::to_string(i) + "]");
      io::TensorToWrite tensor;
      tensor.name = fields.string("name");
      tensor.dtype = fields.choice<io::FileDType>(
          "dtype", {{"F32", io::FileDType::F32}, {"F16", io::FileDType::F16}, {"BF16", io::FileDType::BF16}});
      const Napi::Value shape = fields.get("shape");
      if (!shape.IsArray()) expected(fields.name_of("shape"), "an array of sizes", shape);
      for (uint32_t axis = 0; axis < shape.As<Napi::Array>().Length(); ++axis)
        tensor.shape.push_back(
            read_integer(shape.As<Napi::Array>().Get(axis), fields.name_of("shape"), 0, kSafeInteger));
      data.push_back(fields.floats("data", false));
      expect_length(data.back().size(),
                    io::checked_element_count(tensor.shape, io::FileDType::F32, tensor.name),
                    fields.name_of("data"));
      tensors.push_back(std::move(tensor));
    }
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].data = data[i].data();
    io::write_safetensors(
        path, tensors,
        info[2].IsUndefined() ? std::map<std::string, std::string>{} : read_metadata(info[2], "metadata"));
  });
}

}  // namespace allmrec::binding
