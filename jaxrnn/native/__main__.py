"""Which command compiles the native loops? `python -m jaxrnn.native`."""

from jaxrnn import native

print(native.build())
