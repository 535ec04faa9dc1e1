//! Texts to try a model on.

/// Short and long, prose and not, in several scripts: what a model makes of rounding or of neighbours depends on the
/// text.
pub const SAMPLES: [&str; 12] = [
    "hello",
    "The cat sat on the mat.",
    "A feline rested on the rug.",
    "The stock market crashed today.",
    "How do I reset my password if I no longer have the phone number I registered with?",
    "fn main() { println!(\"{}\", (1..=10).map(|x| x * x).sum::<u64>()); }",
    "Im Herbst fallen die Blätter, und die Abende werden länger.",
    "Où se trouve la gare la plus proche, s'il vous plaît ?",
    "\u{6211}\u{559c}\u{6b22}\u{5728}\u{6cb3}\u{8fb9}\u{6563}\u{6b65}\u{3002}",
    "3.14159 26535 89793 23846 26433 83279 50288 41971 69399 37510",
    "Water boils at a lower temperature on a mountain, because the pressure of the air is lower there; \
     so pasta takes longer to cook, and recipes for high places allow for it.",
    "From: the garden club. To: all members. The meeting on Thursday moves to the library, since the hall's \
     roof is being repaired. Please bring the seeds that you promised, and a chair if you can. Tea will be \
     served at four, and the vote on next year's flower show follows at five.",
];
