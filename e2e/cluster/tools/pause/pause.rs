//! Holds a pod's namespaces: sleeps until it is killed.
fn main() {
    loop {
        std::thread::park();
    }
}
