//! Tables in, Parquet out: what is kept, what is refused, and jobs that go on where they were killed.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Int8Type, Int32Type, Int64Type, UInt8Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, DictionaryArray, Float32Array, Int32Array, Int64Array, LargeStringArray,
    RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tempfile::tempdir;

use crate::support::{Row, golden, on, rows, run, run_on, until, with_end};

/// Texts of which no two are the same.
fn text(row: usize) -> String {
    format!("row {row} of the table has the number {}", row * 7919 % 1000)
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A table `docs.parquet` of `rows` rows in several row groups, `body` being null in every thousandth.
fn docs(dir: &Path, rows: usize) -> PathBuf {
    let path = dir.join("docs.parquet");
    let bodies = (0..rows).map(|row| (row % 1000 != 999).then(|| text(row)));
    let ids = Int64Array::from_iter_values((0..rows as i64).map(|row| row * 3));
    let urls: DictionaryArray<Int32Type> =
        (0..rows).map(|row| (row % 5 != 0).then(|| ["a.org", "b.org"][row % 2])).collect();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(700)).build();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("url", Arc::new(urls)),
        ("body", Arc::new(StringArray::from_iter(bodies))),
        ("id", Arc::new(ids)),
    ];
    write(&path, columns, properties);
    path
}

/// A file as one batch, and what it says of itself.
struct Table {
    batch: RecordBatch,
    groups: usize,
    metadata: Vec<(String, String)>,
}

impl Table {
    fn read(path: &Path) -> Self {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let file = builder.metadata().file_metadata();
        let pairs = file.key_value_metadata().unwrap().iter();
        let metadata = pairs.map(|pair| (pair.key.clone(), pair.value.clone().unwrap())).collect();
        let (groups, schema) = (builder.metadata().num_row_groups(), Arc::clone(builder.schema()));
        let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
        Self { batch: arrow_select::concat::concat_batches(&schema, &batches).unwrap(), groups, metadata }
    }

    fn says(&self, key: &str) -> &str {
        let (_, value) =
            self.metadata.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("{key}"));
        value
    }

    fn column(&self, name: &str) -> &ArrayRef {
        self.batch.column_by_name(name).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.batch.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// Vectors of f32, with null where there is none.
    fn vectors(&self) -> Vec<Option<Vec<f32>>> {
        let list = self.column("embedding").as_fixed_size_list();
        list.iter().map(|row| Some(row?.as_primitive::<Float32Type>().values().to_vec())).collect()
    }
}

fn embed(input: &Path, output: &Path) -> Command {
    let mut command = on("embed", "st-mean");
    command.arg("--input").arg(input).args(["--field", "body", "--output"]).arg(output);
    command
}

fn parts(output: &Path) -> PathBuf {
    with_end(output, ".parts")
}

fn is_part(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "parquet")
}

/// The finished parts of a job, with what tells that they were not written again.
fn finished(output: &Path) -> Vec<(PathBuf, u64, i64)> {
    let Ok(entries) = fs::read_dir(parts(output)) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| is_part(path))
        .filter_map(|path| fs::metadata(&path).ok().map(|file| (path, file.ino(), file.mtime_nsec())))
        .collect();
    found.sort();
    found
}

/// What JSONL has of the same texts.
fn expected(texts: &[String]) -> Vec<Row> {
    let lines: String = texts.iter().map(|text| format!("{text}\n")).collect();
    rows(&run_on(&mut on("embed", "st-mean"), lines.as_bytes()).stdout)
}

#[test]
fn a_table_becomes_a_table_with_its_columns_and_their_types() {
    let dir = tempdir().unwrap();
    let (input, output) = (docs(dir.path(), 2500), dir.path().join("vectors.parquet"));
    run(embed(&input, &output).args(["--keep", "id,url", "--row-group", "1000"])).done();
    let (table, source) = (Table::read(&output), Table::read(&input));
    assert_eq!(table.names(), ["id", "url", "embedding"]);
    assert_eq!((table.batch.num_rows(), table.groups), (2500, 3));
    for name in ["id", "url"] {
        assert_eq!(table.column(name), source.column(name), "{name}");
    }
    let vectors = table.vectors();
    let texts: Vec<usize> = (0..2500).filter(|row| row % 1000 != 999).collect();
    let found: Vec<usize> = (0..2500).filter(|&row| vectors[row].is_some()).collect();
    assert_eq!(found, texts, "null where the text is");
    let lines = expected(&texts.iter().map(|&row| text(row)).collect::<Vec<_>>());
    for (row, line) in texts.iter().zip(&lines) {
        assert_eq!(vectors[*row].as_ref(), Some(&line.embedding), "row {row}");
    }
    for (key, value) in
        [("dims", "32"), ("pooling", "mean"), ("prompt", ""), ("dtype", "f32"), ("normalized", "true")]
    {
        assert_eq!(table.says(&format!("mlx_embed.{key}")), value);
    }
    assert!(table.says("mlx_embed.model").ends_with("st-mean"));
    assert!(table.says("mlx_embed.weights_sha256").starts_with("{\"model.safetensors\":\""));
    assert!(!parts(&output).exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing unfinished stays");
}

#[test]
fn every_input_becomes_parquet_and_parquet_becomes_every_output() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let texts: Vec<String> = (0..40).map(text).collect();
    let lines = expected(&texts);
    let number = |row: usize| row as f64 / 8.0;
    let jsonl: String = texts
        .iter()
        .enumerate()
        .map(|(row, text)| {
            let odd = row % 2 == 1;
            format!("{}\n", serde_json::json!({"id": row, "score": number(row), "odd": odd, "body": text}))
        })
        .collect();
    fs::write(path("docs.jsonl"), jsonl + "{\"body\": null, \"id\": 40}\n").unwrap();
    let csv: String = texts.iter().enumerate().map(|(row, text)| format!("{row:03},\"{text}\"\n")).collect();
    fs::write(path("docs.csv"), format!("id,body\n{csv}")).unwrap();
    fs::write(path("docs.tsv"), format!("id,body\n{csv}").replace(',', "\t")).unwrap();
    for (name, keep, rows) in
        [("docs.jsonl", "id,score,odd", 41), ("docs.csv", "id", 40), ("docs.tsv", "id,body", 40)]
    {
        let output = path(&format!("{name}.parquet"));
        let ran = run(embed(&path(name), &output).args(["--keep", keep, "--with-text"]));
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        let table = Table::read(&output);
        assert_eq!(table.batch.num_rows(), rows);
        for ((row, vector), line) in table.vectors().iter().enumerate().zip(&lines) {
            assert_eq!(vector.as_ref(), Some(&line.embedding), "{name}, {row}");
            assert_eq!(table.column("text").as_string::<i32>().value(row), text(row));
            match name {
                "docs.jsonl" => {
                    assert_eq!(table.column("id").as_primitive::<Int64Type>().value(row), row as i64);
                    let scores = table.column("score").as_primitive::<arrow_array::types::Float64Type>();
                    assert_eq!(scores.value(row), number(row));
                    assert_eq!(table.column("odd").as_boolean().value(row), row % 2 == 1);
                }
                _ => assert_eq!(table.column("id").as_string::<i32>().value(row), format!("{row:03}")),
            }
        }
        if rows == 41 {
            assert!(table.vectors()[40].is_none() && table.column("score").is_null(40));
        }
    }
    let arguments = path("arguments.parquet");
    run(on("embed", "st-mean").args(&texts).arg("--output").arg(&arguments)).done();
    assert_eq!(Table::read(&arguments).names(), ["embedding"]);
    assert_eq!(Table::read(&arguments).vectors()[39].as_ref(), Some(&lines[39].embedding));

    let back = run(on("embed", "st-mean").arg("--input").arg(path("docs.csv.parquet"))).rows();
    assert_eq!(back, lines, "the text is in the column `text`");
    // Whatever its name is.
    fs::rename(path("docs.csv.parquet"), path("part-00000")).unwrap();
    run(on("similarity", "st-mean").arg("--input").arg(path("part-00000"))).done();
}

#[test]
fn vectors_are_written_in_fewer_bits_and_ranges_are_taken_over() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let texts: Vec<String> = (0..300).map(text).collect();
    fs::write(path("docs.txt"), texts.join("\n")).unwrap();
    let job = |output: &str, options: &[&str]| {
        let mut command = on("embed", "st-mean");
        command.arg("--input").arg(path("docs.txt")).arg("--output").arg(path(output)).args(options);
        run(&mut command).done();
    };
    let data = |name: &str| {
        let bytes = fs::read(path(name)).unwrap();
        bytes[128..].to_vec()
    };
    let list = |name: &str| {
        let table = Table::read(&path(name));
        table.column("embedding").as_fixed_size_list().clone()
    };
    job("f16.parquet", &["--dtype", "f16"]);
    job("f16.npy", &["--dtype", "f16"]);
    let found = list("f16.parquet");
    let bits = found.values().as_primitive::<Float16Type>().values().iter();
    assert_eq!(bits.flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>(), data("f16.npy"));

    job("binary.parquet", &["--dtype", "binary"]);
    job("binary.npy", &["--dtype", "binary"]);
    let found = list("binary.parquet");
    assert_eq!(found.value_length(), 4);
    let bits = found.values().as_primitive::<UInt8Type>().values().iter();
    assert_eq!(bits.map(|byte| byte ^ 0x80).collect::<Vec<_>>(), data("binary.npy"));

    job("int8.parquet", &["--dtype", "int8", "--row-group", "120"]);
    let ranges: [Vec<f32>; 2] =
        serde_json::from_str(Table::read(&path("int8.parquet")).says("mlx_embed.ranges")).unwrap();
    let firsts: Vec<f32> = expected(&texts[..120]).iter().map(|row| row.embedding[3]).collect();
    assert_eq!(ranges[0][3], firsts.iter().copied().fold(f32::INFINITY, f32::min), "of the first row group");
    assert_eq!(ranges[1][3], firsts.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let given = path("int8.parquet");
    job("again.parquet", &["--dtype", "int8", "--ranges", given.to_str().unwrap()]);
    job("again.npy", &["--dtype", "int8", "--ranges", given.to_str().unwrap()]);
    for name in ["int8.parquet", "again.parquet"] {
        let found = list(name);
        let bytes = found.values().as_primitive::<Int8Type>().values().iter();
        assert_eq!(bytes.map(|byte| byte.cast_unsigned()).collect::<Vec<_>>(), data("again.npy"), "{name}");
    }
    job("f32.parquet", &[]);
    run(on("embed", "st-mean")
        .args(["a", "--dtype", "int8", "--ranges"])
        .arg(path("f32.parquet"))
        .arg("-o")
        .arg(given))
    .failed(2, &["f32.parquet: it has no `ranges`"]);
}

#[test]
fn strings_are_read_in_whatever_type_and_compression() {
    let dir = tempdir().unwrap();
    let texts: Vec<Option<String>> = (0..30).map(|row| (row != 7).then(|| text(row))).collect();
    let views: ArrayRef = Arc::new(StringViewArray::from_iter(texts.iter().map(Option::as_deref)));
    let large: ArrayRef = Arc::new(LargeStringArray::from_iter(texts.iter().map(Option::as_deref)));
    let dictionary: DictionaryArray<Int32Type> = texts.iter().map(Option::as_deref).collect();
    let plain: ArrayRef = Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref)));
    let gzip = Compression::GZIP(GzipLevel::default());
    let cases: [(&str, ArrayRef, Compression); 6] = [
        ("plain", Arc::clone(&plain), Compression::UNCOMPRESSED),
        ("snappy", Arc::clone(&plain), Compression::SNAPPY),
        ("lz4", plain, Compression::LZ4_RAW),
        ("view", views, gzip),
        ("large", large, Compression::ZSTD(ZstdLevel::default())),
        ("dictionary", Arc::new(dictionary), Compression::SNAPPY),
    ];
    let mut all: Option<Vec<Option<Vec<f32>>>> = None;
    for (name, array, compression) in cases {
        let (input, output) =
            (dir.path().join(format!("{name}.parquet")), dir.path().join(format!("{name}.out.parquet")));
        let kind = array.data_type().clone();
        write(
            &input,
            vec![("body", array)],
            WriterProperties::builder().set_compression(compression).build(),
        );
        let ran = run(embed(&input, &output).args(["--keep", "body"]));
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        let table = Table::read(&output);
        assert_eq!(*table.column("body").data_type(), kind, "{name}");
        let vectors = table.vectors();
        assert!(vectors[7].is_none() && vectors[8].is_some());
        assert_eq!(*all.get_or_insert(vectors.clone()), vectors, "{name}");
        // A column that is not kept is read as views.
        fs::remove_file(&output).unwrap();
        let ran = run(&mut embed(&input, &output));
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        assert_eq!(Table::read(&output).vectors(), vectors, "{name}");
    }
}

/// A text that a dictionary has once doesn't take its bytes in each row: 400 rows of 16 MB, in a file of some kilobytes.
#[test]
fn a_text_of_many_rows_is_in_memory_once() {
    let dir = tempdir().unwrap();
    let (input, output) = (dir.path().join("docs.parquet"), dir.path().join("vectors.parquet"));
    let values: ArrayRef = Arc::new(StringArray::from(vec!["word ".repeat(3 << 20)]));
    let keys = Int32Array::from(vec![0; 400]);
    let texts: ArrayRef = Arc::new(DictionaryArray::try_new(keys, values).unwrap());
    let batch = RecordBatch::try_from_iter([("body", texts)]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_page_size_limit(32 << 20)
        .build();
    // Without Arrow's schema beside it, the column is one of strings.
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let file = File::create(&input).unwrap();
    let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert!(fs::metadata(&input).unwrap().len() < 100_000);
    let embed = embed(&input, &output);
    // 4 GiB of address space, of which libraries and threads take most.
    let mut bounded = Command::new("sh");
    bounded
        .args(["-c", "ulimit -v 4194304; exec \"$0\" \"$@\""])
        .arg(embed.get_program())
        .args(embed.get_args());
    run(bounded.args(["--on-error", "skip"])).failed(3, &["row 400", "but the limit is", "400 of 400 texts"]);
}

#[test]
fn what_no_text_can_be_read_from_is_named() {
    let dir = tempdir().unwrap();
    let input = dir.path().join("docs.parquet");
    let inner: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let nested = StructArray::from(vec![(Arc::new(Field::new("body", DataType::Utf8, true)), inner)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("meta", Arc::new(nested)),
        ("number", Arc::new(Float32Array::from(vec![1.0]))),
        ("bytes", Arc::new(BinaryArray::from(vec![&b"a"[..]]))),
        ("embedding", Arc::new(StringArray::from(vec!["a"]))),
        ("body", Arc::new(StringArray::from(vec![None::<&str>]))),
    ];
    write(&input, columns, WriterProperties::default());
    let output = dir.path().join("vectors.parquet");
    for (options, code, message) in [
        (
            &["--field", "text"][..],
            2,
            "docs.parquet has no such column; there are: meta, number, bytes, embedding",
        ),
        (&["--field", "meta.body"], 2, "`meta` is nested"),
        (&["--field", "meta"], 2, "`meta` is nested"),
        (&["--field", "number"], 2, "it is Float32, and texts are strings"),
        (&["--field", "bytes"], 2, "it is Binary, and texts are strings"),
        (&["--keep", "ids"], 2, "--keep ids: "),
        (&["--keep", "embedding"], 1, "two of its columns would be called `embedding`"),
        (&["--keep", "number,number"], 1, "two of its columns would be called `number`"),
        (&["--format", "npy"], 2, "--keep and --row-group are for Parquet"),
    ] {
        let mut command = embed(&input, &output);
        command.args(if options[0] == "--format" { &["--keep", "number"][..] } else { &[] });
        run(command.args(options)).failed(code, &[message]);
    }
    run(embed(&input, &dir.path().join("vectors.npy")).arg("--quiet")).failed(
        1,
        &["docs.parquet, row 1, column `body`: the field `body` is null", "--output FILE.parquet"],
    );
    run(on("embed", "st-mean").args(["a", "--keep", "id", "-o"]).arg(&output))
        .failed(2, &["--keep copies columns"]);
    run(on("embed", "st-mean").args(["a", "--format", "parquet"])).failed(2, &["Parquet can't be streamed"]);
    fs::write(&input, "PAR1 and then nothing").unwrap();
    run(&mut embed(&input, &output)).failed(1, &["docs.parquet: "]);
    assert!(!output.exists() && !parts(&output).exists());
}

#[test]
fn a_job_that_is_killed_at_any_moment_goes_on_and_makes_the_same_file() {
    let dir = tempdir().unwrap();
    let input = docs(dir.path(), 12_000);
    let job = |output: &Path, dtype: &str| {
        let mut job = embed(&input, output);
        job.args(["--keep", "id,url", "--row-group", "800", "--quiet", "--dtype", dtype]);
        job.stderr(Stdio::null());
        job
    };
    for dtype in ["f32", "int8"] {
        let whole = dir.path().join(format!("whole-{dtype}.parquet"));
        let start = Instant::now();
        assert!(job(&whole, dtype).status().unwrap().success());
        let time = start.elapsed();
        let output = dir.path().join(format!("killed-{dtype}.parquet"));
        let (mut kills, mut before) = (0, Vec::new());
        loop {
            let mut child = job(&output, dtype).spawn().unwrap();
            // Moments that are spread over the job and never the same.
            sleep(time.mul_f64(0.15 + f64::from(kills * 37 % 20) / 100.0));
            let _ = child.kill();
            let ended = child.wait().unwrap();
            if ended.success() {
                break;
            }
            kills += 1;
            if output.exists() {
                // It was whole, and the program about to end.
                break;
            }
            let after = finished(&output);
            assert_eq!(after[..before.len()], before[..], "a row group that was done is made again");
            before = after;
            assert!(kills < 200, "it never ends");
        }
        assert!(kills >= 2, "{kills} kills");
        assert_eq!(fs::read(&output).unwrap(), fs::read(&whole).unwrap(), "{dtype}, {kills} kills");
        assert!(job(&output, dtype).status().unwrap().success());
        assert_eq!(fs::read(&output).unwrap(), fs::read(&whole).unwrap(), "{dtype}, once more");
        assert!(!parts(&output).exists());
    }
}

#[test]
fn a_job_that_failed_goes_on_and_counts_what_was_left_out_before() {
    let dir = tempdir().unwrap();
    let (input, output) = (dir.path().join("docs.csv"), dir.path().join("vectors.parquet"));
    let mut csv = b"id,body\n".to_vec();
    for row in 0..250 {
        match row {
            50 => csv.extend(b"50,\xe9\n"),
            _ => csv.extend(format!("{row},{}\n", text(row)).bytes()),
        }
    }
    // Longer than a row may be beside texts of 1000 bytes.
    csv.extend(format!("250,{}\n", "a ".repeat(1 << 20)).bytes());
    fs::write(&input, csv).unwrap();
    let job = |options: &[&str]| {
        let mut job = embed(&input, &output);
        run(job.args(["--keep", "id", "--row-group", "100"]).args(options))
    };
    job(&[])
        .failed(1, &["docs.csv, row 51: byte 1 of the column `body` is not UTF-8", "nothing is written to"]);
    assert!(!parts(&output).exists());
    job(&["--on-error", "skip", "--max-text-bytes", "1000"]).failed(
        1,
        &["skipped: ", "row 51", "a row is longer", "the 199 results before it", "same command continues"],
    );
    let before = finished(&output);
    assert_eq!(before.len(), 2);
    job(&["--on-error", "skip", "--max-text-bytes", "9000000"])
        .failed(3, &["199 results are in", "1 of 251 texts were skipped", "1 of 250 texts had more than"]);
    let table = Table::read(&output);
    assert_eq!((table.batch.num_rows(), table.groups), (250, 3));
    let ids = table.column("id").as_string::<i32>();
    assert_eq!((ids.value(49), ids.value(50), ids.value(249)), ("49", "51", "250"));
    assert!(!parts(&output).exists());
}

#[test]
fn parts_of_another_job_are_not_gone_on_with() {
    let dir = tempdir().unwrap();
    let (input, output) = (dir.path().join("docs.csv"), dir.path().join("vectors.parquet"));
    let csv: String = (0..250).map(|row| format!("{row},{}\n", text(row))).collect();
    // A row with too many fields stops it behind two parts.
    fs::write(&input, format!("id,body\n{csv}a,b,c\n")).unwrap();
    let job = |options: &[&str]| {
        let mut job = embed(&input, &output);
        job.args(["--row-group", "100"]).args(options);
        run(&mut job)
    };
    job(&[]).failed(
        1,
        &["row 251: it has 3 fields", "the 200 results before it are written to", "same command continues"],
    );
    let left = finished(&output);
    assert_eq!(left.len(), 2);
    for (options, fact) in [
        (&["--dims", "8"][..], "`mlx_embed.dims` is \"32\", and now it is \"8\""),
        (&["--dtype", "f16"], "`mlx_embed.dtype` is \"f32\""),
        (&["--prompt", "a "], "`mlx_embed.prompt` is \"\""),
        (&["--pooling", "cls"], "`mlx_embed.pooling` is \"mean\""),
        (&["--no-normalize"], "`mlx_embed.normalized`"),
        (&["--max-tokens", "9"], "`mlx_embed.max_tokens`"),
        (&["--keep", "id"], "`keep` is [], and now it is [\"id\"]"),
        (&["--row-group", "50"], "`row_group` is 100, and now it is 50"),
        (&["--field", "id"], "`field` is \"body\""),
        (&["--with-text"], "`with_text` is false"),
        (&["--kernels", "portable"], "`kernels` is "),
        (&["--kernels", "mlx"], "`kernels` is "),
    ] {
        job(options).failed(1, &[fact, "vectors.parquet.parts: parts of another job", "remove the folder"]);
    }
    run(on("embed", "st-mean").args(["a", "--output"]).arg(&output))
        .failed(1, &["the input of this job is not a named file"]);
    run(on("embed", "st-cls")
        .arg("--input")
        .arg(&input)
        .args(["--field", "body", "--row-group", "100", "-o"])
        .arg(&output))
    .failed(1, &["parts of another job"]);
    assert_eq!(finished(&output), left, "nothing is lost");
    // As jobs were before their facts had a form.
    let facts = parts(&output).join("job.json");
    let begun = fs::read_to_string(&facts).unwrap();
    fs::write(&facts, begun.replace("\"form\": 2,", "")).unwrap();
    job(&[]).failed(1, &["parts of another job", "another version of mlx-embed began it"]);
    fs::write(&facts, begun).unwrap();

    let ran = job(&["--on-error", "skip"]);
    ran.failed(3, &["200 results are in", "1 of 251 texts"]);
    assert_eq!(Table::read(&output).batch.num_rows(), 250);
    job(&[]).failed(1, &["row 251"]);
    fs::write(&input, format!("id,body\n{csv}a,b\n")).unwrap();
    job(&[]).failed(1, &["`input_bytes` is"]);
    fs::remove_dir_all(parts(&output)).unwrap();
    assert_eq!(job(&[]).code, 0);
    assert_eq!(Table::read(&output).batch.num_rows(), 251);
}

#[test]
fn a_job_goes_on_with_the_model_it_was_begun_with() {
    let dir = tempdir().unwrap();
    let (input, output, model) =
        (dir.path().join("docs.csv"), dir.path().join("vectors.parquet"), dir.path().join("model"));
    fs::write(&input, format!("id,body\n{}a,b,c\n", "1,a text\n".repeat(150))).unwrap();
    let copy = Command::new("cp").arg("-rL").arg(golden("st-mean")).arg(&model).status().unwrap();
    assert!(copy.success());
    let job = || run(embed(&input, &output).arg("--model").arg(&model).args(["--row-group", "100"]));
    job().failed(1, &["the 100 results before it are written to"]);
    let settings = model.join("modules.json");
    let sound = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{sound}\n")).unwrap();
    job().failed(1, &["`model_files_sha256` is", "parts of another job"]);
    fs::write(&settings, sound).unwrap();
    fs::write(model.join("notes.txt"), "no part of the model").unwrap();
    job().failed(1, &["the 100 results before it are written to"]);
}

#[test]
fn damage_and_what_is_in_the_way_are_named() {
    let dir = tempdir().unwrap();
    let (input, output) = (dir.path().join("docs.csv"), dir.path().join("vectors.parquet"));
    let csv: String = (0..250).map(|row| format!("{row},{}\n", text(row))).collect();
    fs::write(&input, format!("id,body\n{csv}a,b,c\n")).unwrap();
    let job = || run(embed(&input, &output).args(["--row-group", "100", "--on-error", "skip"]));
    fs::write(parts(&output), "in the way").unwrap();
    job().failed(1, &["vectors.parquet.parts: in the way"]);
    fs::remove_file(parts(&output)).unwrap();
    run(embed(&input, &output).args(["--row-group", "100"])).failed(1, &["200 results"]);
    let second = finished(&output)[1].0.clone();
    let bytes = fs::read(&second).unwrap();
    fs::write(&second, &bytes[..bytes.len() - 100]).unwrap();
    job().failed(1, &["00000001.parquet is damaged", "remove it, and its rows are embedded again"]);
    let first = finished(&output)[0].0.clone();
    fs::rename(&first, dir.path().join("first")).unwrap();
    run(embed(&input, &output).args(["--row-group", "100", "--dims", "8"]))
        .failed(1, &["`mlx_embed.dims` is"]);
    fs::rename(dir.path().join("first"), &first).unwrap();
    fs::remove_file(&second).unwrap();
    fs::remove_file(parts(&output).join("job.json")).unwrap();
    job().failed(1, &["job.json, which says of what they are, can't be read"]);
    fs::remove_dir_all(parts(&output)).unwrap();
    fs::create_dir(parts(&output)).unwrap();
    fs::write(parts(&output).join("notes.txt"), "mine").unwrap();
    job().failed(3, &["1 of 251 texts"]);
    assert_eq!(fs::read_to_string(parts(&output).join("notes.txt")).unwrap(), "mine");
    assert_eq!(Table::read(&output).batch.num_rows(), 250);
}

#[test]
fn of_two_writers_of_a_parquet_file_the_second_is_refused() {
    let dir = tempdir().unwrap();
    let (input, output) = (docs(dir.path(), 12_000), dir.path().join("vectors.parquet"));
    let mut first =
        embed(&input, &output).args(["--row-group", "200"]).stderr(Stdio::null()).spawn().unwrap();
    until("a part is written", || {
        assert!(first.try_wait().unwrap().is_none(), "it has ended");
        (!finished(&output).is_empty()).then_some(())
    });
    run(embed(&input, &output).args(["--row-group", "200"]))
        .failed(1, &["another program is writing this file"]);
    assert!(first.wait().unwrap().success());
    assert_eq!(Table::read(&output).batch.num_rows(), 12_000);
}

/// The output has its name then, and is not locked any more.
#[test]
fn a_job_whose_parts_are_being_removed_keeps_the_next_one_out() {
    let dir = tempdir().unwrap();
    let (input, output) = (docs(dir.path(), 250), dir.path().join("vectors.parquet"));
    fs::create_dir(parts(&output)).unwrap();
    let job_before = File::open(parts(&output)).unwrap();
    job_before.lock().unwrap();
    run(&mut embed(&input, &output))
        .failed(1, &["vectors.parquet.parts: another program is writing this file; wait for it"]);
    assert!(fs::read_dir(parts(&output)).unwrap().next().is_none() && !output.exists());
    drop(job_before);
    assert!(run(&mut embed(&input, &output)).code != 1 && output.exists() && !parts(&output).exists());
}

#[test]
fn a_table_without_rows_is_a_table_without_rows() {
    let dir = tempdir().unwrap();
    let (input, output) = (docs(dir.path(), 0), dir.path().join("vectors.parquet"));
    for dtype in ["f32", "int8"] {
        run(embed(&input, &output).args(["--keep", "id", "--dtype", dtype])).done();
        let table = Table::read(&output);
        assert_eq!(
            (table.batch.num_rows(), table.names()),
            (0, vec!["id".to_owned(), "embedding".to_owned()])
        );
        assert!(matches!(table.column("embedding").data_type(), DataType::FixedSizeList(_, 32)));
    }
}
