#include "runtime.h"

using namespace allmrec::emulator;

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (graph == nullptr) return fail_with(cudaErrorInvalidValue);
  *exec = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}

// A graph takes new parameters where its nodes are of the same kinds, and its kernels the same, in the same
// order.
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo* info) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (exec == nullptr || graph == nullptr) return fail_with(cudaErrorInvalidValue);
  cudaGraphExecUpdateResult result = cudaGraphExecUpdateSuccess;
  if (exec->nodes.size() != graph->nodes.size()) result = cudaGraphExecUpdateErrorTopologyChanged;
  for (size_t i = 0; i < exec->nodes.size() && result == cudaGraphExecUpdateSuccess; ++i) {
    if (exec->nodes[i].kind != graph->nodes[i].kind) {
      result = cudaGraphExecUpdateErrorNodeTypeChanged;
    } else if (exec->nodes[i].kernel != graph->nodes[i].kernel) {
      result = cudaGraphExecUpdateErrorFunctionChanged;
    }
  }
  if (info != nullptr) *info = {result, nullptr, nullptr};
  if (result != cudaGraphExecUpdateSuccess) return fail_with(cudaErrorGraphExecUpdateFailure);
  exec->nodes = graph->nodes;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (exec == nullptr) return fail_with(cudaErrorInvalidResourceHandle);
  for (const Work& node : exec->nodes) {
    if (const cudaError_t error = submit(stream, node)) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (graph == nullptr || nodes != nullptr) return fail_with(cudaErrorNotSupported);
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
