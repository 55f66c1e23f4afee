# Compiler settings by platform, to be sourced: source scripts/flags.sh gpu | tpu | cpu
#
# All are about hiding communication behind computation, and none changes results beyond rounding. They are read when
# jax starts. What you set yourself comes after them and wins. Compiled programs are kept in JAX_COMPILATION_CACHE_DIR,
# so that a restart does not compile again.

export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/gendyn/compiled}

case ${1:?usage: source scripts/flags.sh gpu | tpu | cpu} in
gpu)
    # Collectives start early and end late (the default of newer versions of XLA).
    export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true ${XLA_FLAGS:-}"
    # jax takes three quarters of the memory by default.
    export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
    ;;
tpu)
    # Collectives run beside computation; the gathers of fsdp above all.
    export LIBTPU_INIT_ARGS="--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true ${LIBTPU_INIT_ARGS:-}"
    ;;
cpu) ;;
*)
    echo "scripts/flags.sh knows gpu, tpu and cpu; got $1" >&2
    return 1 2>/dev/null || exit 1
    ;;
esac
