//! Device models on virtio-queue.
