"""Keras: lists of weights, files of every version since 2.0, Sequential models."""
