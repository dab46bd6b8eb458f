//! A microVM with our agent in it, and its containers.
