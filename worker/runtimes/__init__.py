"""Programs that run function code, each in its own process.

`python_child` is the process: started with two file descriptors, it speaks the frames of
`worker.frames`, is handed a program and then jobs, and reports each outcome.  Nothing of it is
trusted by the agent.  It runs native Python itself; what runs other programs it loads by path, and
only when a program wants it: `wasm_module` (with `wasm_component`, `wasm_calls`), `wasm_python`,
`onnx_model`, `exec_program`.  `handling` calls a handler, here and inside WebAssembly, where
`wasm_guest` does what `python_child` does outside.
"""
