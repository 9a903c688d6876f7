//! A service in its shortest form: gets questions about files, answers them. Run it beside a filter that serves the port.

use fltport::Client;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1);
    let client = Client::connect(port.as_deref().unwrap_or(r"\ScannerPort"), b"")?;
    loop {
        let message = client.next_message()?;
        let bad = message.payload().windows(5).any(|part| part == b"virus");
        if let Err(error) = message.reply(&[u8::from(!bad)]) {
            eprintln!("nobody took the answer: {error}");
        }
    }
}
