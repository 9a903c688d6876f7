//! Asks a service of this process so many questions of 64 bytes, asleep, and nothing else: for counting instructions. What two
//! counts differ by is what the questions between them take.
//!
//! ```sh
//! cargo build --release -p fltport --example round_trips
//! valgrind --tool=callgrind target/release/examples/round_trips 20000
//! valgrind --tool=callgrind target/release/examples/round_trips 40000
//! ```

use std::error::Error;
use std::sync::mpsc;

use fltport::{Access, ClientPort, Connector, NtStatus, Peer, PortHandler, ServerPort, Timeout};

struct Filter(mpsc::Sender<ClientPort>);

impl PortHandler for Filter {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        self.0.send(port).map_err(|_| NtStatus::UNSUCCESSFUL)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let count: u32 = std::env::args()
        .nth(1)
        .map_or(Ok(20_000), |count| count.parse())
        .map_err(|_| "give the number of questions, such as 20000")?;
    let directory = std::env::temp_dir().join(format!("round-trips-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let (sender, ports) = mpsc::channel();
    let server = ServerPort::builder(r"\RoundTrips")
        .directory(&directory)
        .access(Access::everyone())
        .spin(false)
        .listen(Filter(sender))?;
    let client = Connector::new()
        .directory(&directory)
        .spin(false)
        .connect(r"\RoundTrips", b"")?;
    let filter = ports.recv()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(message) = client.next_message() {
                message.reply(&[7; 64]).ok();
            }
        });
        let mut reply = [0; 64];
        let asked = (0..count).try_for_each(|_| {
            filter
                .ask_into(&[7; 64], &mut reply, Timeout::Never)
                .map(drop)
        });
        filter.close();
        asked
    })?;
    server.shutdown();
    std::fs::remove_dir_all(&directory)?;
    println!("{count} questions, {}", client.way());
    Ok(())
}
