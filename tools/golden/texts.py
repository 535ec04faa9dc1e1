"""What models read here: prose of 5 to 300 tokens, code, numbers, other scripts."""

PARAGRAPH = (
    "The lighthouse had stood on the point for a hundred and forty years before anyone thought to "
    "ask what would happen when the rock beneath it gave way. The keepers had gone in 1962, when "
    "the lamp was made to light itself, and since then only painters, gulls and the occasional "
    "inspector had climbed the stair. In the spring an engineer came with a drill and took out "
    "cores of grey slate, each as long as an arm, and laid them in a wooden tray in the order in "
    "which they had come up. Two of them were sound. The third broke in her hands like cake. She "
    "wrote a short report, in which the word 'eventually' was used four times, and sent it to a "
    "department that had been merged with another a week before."
)
TEXTS = (
    "How old are you?",
    "The stock market crashed today",
    "A feline rested on the rug while rain fell on the roof.",
    "what is the capital city of the country that borders both Spain and Italy",
    "Photosynthesis is the process by which green plants turn sunlight, water and carbon dioxide "
    "into sugar and oxygen.",
    "def fib(n: int) -> int:\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n"
    "    return a\n\n\nprint([fib(i) for i in range(10)])",
    "SELECT name, COUNT(*) FROM orders WHERE placed >= '2024-01-01' GROUP BY name HAVING "
    "COUNT(*) > 3 ORDER BY 2 DESC LIMIT 10;",
    "3.14159 26535 89793; 1,000,000 + 2,500 = 1,002,500 (28.06.1914), tel. +44 20 7946 0958",
    "東京は日本の首都です。人口は約千四百万人です。",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "!!! ??? ... --- *** \t\t\n\n\n   🦀🦀🦀 café naïve ½ ∑ x² ≤ ∞",
    "TO WHOM IT MAY CONCERN: the parcel (ref. #88-1203/b) was returned unopened on Monday. Please "
    "confirm your address before the 14th, or we shall send it back to the shop. We are sorry for "
    "the trouble this has caused you, and remain yours faithfully.",
    PARAGRAPH,
    PARAGRAPH + " " + "Nobody read it. In October there was a storm of the ordinary kind, and in "
    "the morning the point was shorter by the length of a garden; the tower leaned out over the "
    "water with its lamp still turning. People drove out to look. A man sold tea from a van. Those "
    "who had grown up with the light said that they had always known; those who had not said that "
    "something should have been done, and the department, under its new name, agreed with both.",
)
