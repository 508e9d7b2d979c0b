"""What stands around the recurrence: the layers of Flax Linen and NNX.

What both share: `options` says what can be chosen, `run`, `combine` and `embed` what is
done with arrays, `flax_rnn` what the call of Flax' RNN means. `linen` and `nnx` add
parameters and keys; their `_wrappers` are layers around layers, their `_rnn` the RNN
around any cell. Only the files of NNX import `flax.nnx`.
"""
