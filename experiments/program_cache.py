"""Where do compiled programs stay from one run to the next? In the user's cache."""

import jax

from jaxrnn import files


def keep_programs() -> None:
    """Turns on JAX's persistent compilation cache, for programs of any size.

    What one run has compiled, the next one reads: that saves most of the seconds before
    the first update (`startup.py` measures them), and changes no number. The programs
    lie in `JAX_COMPILATION_CACHE_DIR`, or where that is not set in `jaxrnn/programs` of
    the user's cache directory (`XDG_CACHE_HOME`, `~/.cache`), a folder that may be
    deleted at any time. `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.

    The experiments call it where they are run as a script; the library never does.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update(
            "jax_compilation_cache_dir", str(files.cache_folder() / "programs")
        )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
