"""What `jaxrnn.Fused` is made of: CUDA from the step of any cell.

`blocks.py` reads the jaxpr of a step with the features as threads, `emit.py` writes the
kernels around it, `plan.py` shares out threads and memory, `prelude.cu` holds what all
kernels are made of, and `launch.py` compiles and runs them.
"""
