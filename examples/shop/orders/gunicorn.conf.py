"""How gunicorn runs the service: one process with threads, because it mostly waits for others."""

bind = "0.0.0.0:8000"
workers = 1
worker_class = "gthread"
threads = 8
timeout = 30
graceful_timeout = 8
# Its heartbeat file must not be on a disk, and every sandbox has this tmpfs.
worker_tmp_dir = "/dev/shm"
