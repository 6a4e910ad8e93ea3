"""The only room that imports onnxruntime: the protocol, its implementation, devices and CUDA."""
