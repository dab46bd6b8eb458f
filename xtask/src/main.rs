//! Set-up, guest kernel, demo.
fn main() {}
