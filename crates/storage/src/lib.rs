//! OCI images and the disks made of them.
