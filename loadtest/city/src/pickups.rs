//! Recorded pickups: the city replays them, and the backtest scores forecasts with them.
//!
//! A file is CSV, plain or gzipped, with the columns `pickup_at`, `lat`, `lon` and `base`;
//! `pickup_at` is the civil time of New York (see [`new_york`]). The reader streams the rows, so a
//! file may be larger than memory. A row that cannot be read is an error with file and line: a
//! silently shorter history would only show as a worse forecast.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use csv::StringRecord;
use flate2::bufread::GzDecoder;
use marketplace::backtest::Pickup;
use marketplace::{Position, new_york};

/// Reads all pickups of a file, in the order of the file.
///
/// # Errors
/// If the file cannot be read, lacks a column or has a bad row; the message names file and line.
pub fn read(path: impl AsRef<Path>) -> anyhow::Result<Vec<Pickup>> {
    let path = path.as_ref();
    read_rows(path).with_context(|| format!("cannot read pickups from {}", path.display()))
}

fn read_rows(path: &Path) -> anyhow::Result<Vec<Pickup>> {
    let mut rows = csv::Reader::from_reader(open(path)?);
    let columns = Columns::find(rows.headers().context("line 1")?)?;
    let mut pickups = Vec::new();
    let mut row = StringRecord::new();
    loop {
        // A row that cannot be split into fields follows the last row that could.
        let next_line = row.position().map_or(2, |last| last.line() + 1);
        let is_row = rows.read_record(&mut row);
        if !is_row.with_context(|| format!("line {next_line}"))? {
            break;
        }
        let pickup = columns.pickup(&row);
        pickups.push(pickup.with_context(|| format!("line {}", line_of(&row)))?);
    }
    Ok(pickups)
}

fn line_of(row: &StringRecord) -> u64 {
    row.position().map_or(0, csv::Position::line)
}

/// The text of the file, unpacked if it begins like a gzip file, whatever its name.
fn open(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        Ok(Box::new(GzipMembers(Some(GzDecoder::new(file)))))
    } else {
        Ok(Box::new(file))
    }
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A gzip file: members one behind another, and zeros that pad the end, as tapes and some stores
/// write them.
struct GzipMembers<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.0.take().map(GzDecoder::into_inner) else {
                break;
            };
            if rest.fill_buf()?.first() == Some(&GZIP_MAGIC[0]) {
                self.0 = Some(GzDecoder::new(rest));
            } else if rest.bytes().any(|byte| !matches!(byte, Ok(0))) {
                let words = "bytes behind the end of the gzip data";
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
        }
        Ok(0)
    }
}

/// The index of each column.
struct Columns {
    pickup_at: usize,
    lat: usize,
    lon: usize,
    base: usize,
}

impl Columns {
    fn find(header: &StringRecord) -> anyhow::Result<Self> {
        let column = |name: &str| {
            let place = header.iter().position(|title| title.trim() == name);
            place.with_context(|| {
                format!("line 1: no column `{name}`; expected pickup_at,lat,lon,base")
            })
        };
        Ok(Self {
            pickup_at: column("pickup_at")?,
            lat: column("lat")?,
            lon: column("lon")?,
            base: column("base")?,
        })
    }

    fn pickup(&self, row: &StringRecord) -> anyhow::Result<Pickup> {
        Ok(Pickup {
            at: new_york::read(row[self.pickup_at].trim()).context("pickup_at")?,
            position: Position::new(degrees(row, self.lat)?, degrees(row, self.lon)?)?,
            base: row[self.base].trim().to_owned(),
        })
    }
}

fn degrees(row: &StringRecord, column: usize) -> anyhow::Result<f64> {
    let text = row[column].trim();
    text.parse()
        .with_context(|| format!("`{text}` is not a number of degrees"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const TWO_PICKUPS: &str = "pickup_at,lat,lon,base\n\
        2014-04-04T16:00,40.7404,-73.9961,B02512\n\
        2014-04-04T16:01:30,40.7740,-73.8715,B02598\n";

    #[test]
    fn zeros_behind_gzip_file_are_padding() {
        let padded = [gzipped(TWO_PICKUPS), vec![0; 1_024]].concat();
        assert_eq!(read(file("padded.gz", &padded)).unwrap().len(), 2);
        let garbled = [padded, b"more".to_vec()].concat();
        let refused = format!("{:#}", read(file("garbled.gz", &garbled)).unwrap_err());
        assert!(refused.contains("bytes behind the end"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }

    /// A file of this test process, named after the test that wrote it.
    fn file(name: &str, content: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pickups-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        path
    }

    fn gzipped(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn refusal(name: &str, content: &[u8]) -> String {
        let path = file(name, content);
        let refused = format!("{:#}", read(&path).unwrap_err());
        std::fs::remove_file(&path).unwrap();
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
        refused
    }

    #[test]
    fn packed_and_plain_files_are_equal() {
        let packed = file("same.csv.gz", &gzipped(TWO_PICKUPS));
        let plain = file("same.csv", TWO_PICKUPS.as_bytes());
        let pickups = read(&packed).unwrap();
        assert_eq!(pickups, read(&plain).unwrap());
        assert_eq!(pickups.len(), 2);
        assert_eq!(pickups[0].at.to_string(), "2014-04-04T20:00:00.000Z");
        assert_eq!(pickups[1].at.to_string(), "2014-04-04T20:01:30.000Z");
        assert_eq!(pickups[1].position.lon(), -73.8715);
        assert_eq!(pickups[1].base, "B02598");
        for path in [packed, plain] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn bad_rows_are_refused_with_their_line() {
        let with_row = |row: &str| format!("{TWO_PICKUPS}{row}\n").into_bytes();
        let refused = refusal("time", &with_row("yesterday,40.7,-73.9,B02512"));
        assert!(refused.contains("line 4") && refused.contains("yesterday"));
        let refused = refusal("place", &with_row("2014-04-04T16:02,140.7,-73.9,B02512"));
        assert!(refused.contains("line 4") && refused.contains("lat must be between"));
        let refused = refusal("short", &with_row("2014-04-04T16:02,40.7"));
        assert!(refused.contains("line 4"), "{refused}");
        let refused = refusal("header", b"when,lat,lon,base\n");
        assert!(refused.contains("line 1: no column `pickup_at`"));
    }

    #[test]
    fn truncated_file_is_refused() {
        let mut packed = gzipped(TWO_PICKUPS);
        packed.truncate(packed.len() - 12);
        let refused = refusal("cut.csv.gz", &packed);
        assert!(refused.contains("line "), "{refused}");
    }

    #[test]
    fn error_names_a_missing_file() {
        let refused = format!("{:#}", read("/nowhere/pickups.csv.gz").unwrap_err());
        assert!(refused.contains("/nowhere/pickups.csv.gz"));
    }
}
