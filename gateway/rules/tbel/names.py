"""The names that TBEL gives a meaning to. Source: reference rule-engine §6.2, §6.3."""

from __future__ import annotations

from typing import Final

FOREIGN_WORDS: Final = {
    "let": "write var",
    "const": "write var",
    "try": "there is nothing to catch errors with",
    "catch": "there is nothing to catch errors with",
    "throw": "write raiseError(text)",
    "typeof": "write x is String, or isMap(x), isList(x)",
    "delete": "write map.remove(key)",
    "continue": "put the rest into an if",
    "undefined": "write null",
    "switch": "write if … else if",
    "in": "write foreach (x : list)",
    "of": "write foreach (x : list)",
    "class": "there are maps and functions only",
    "this": "there are maps and functions only",
    "async": "there is nothing to wait for",
    "await": "there is nothing to wait for",
    "yield": "there is nothing to wait for",
    "with": "name the map each time",
    "void": "leave it out",
    "import": "there are no modules",
}
CONSTANTS: Final[dict[str, tuple[str, str]]] = {
    "true": ("true", "B"),
    "false": ("false", "B"),
    "null": ("null", "N"),
    "nil": ("null", "N"),
    "empty": ("_empty", "?"),
    "NaN": ("NaN", "D"),
    "Infinity": ("Infinity", "D"),
}
TYPE_NAMES: Final = {
    "int": "I", "Integer": "I", "short": "I", "Short": "I", "byte": "I", "Byte": "I", "long": "L", "Long": "L",
    "double": "D", "Double": "D", "float": "D", "Float": "D", "boolean": "B", "Boolean": "B", "String": "S",
    "char": "S", "Object": "?", "List": "?", "ArrayList": "?", "Map": "?", "HashMap": "?", "LinkedHashMap": "?",
    "Set": "?", "HashSet": "?", "Date": "?", "Number": "?", "BigDecimal": "D", "BigInteger": "?",
}  # fmt: skip
"""Of declarations and casts, with what is known of such a value."""

# ruff: noqa: SIM905 - long lists of names are read as text
CLASSES: Final = frozenset(
    "Math JSON Date Integer Long Double Float Boolean String ArrayList LinkedList HashMap LinkedHashMap TreeMap "
    "HashSet LinkedHashSet Random Arrays".split()
)
MATH: Final[dict[str, str]] = (
    dict.fromkeys(("abs", "max", "min"), "")
    | dict.fromkeys(
        "floor ceil sqrt cbrt pow exp expm1 log log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh hypot "
        "random signum toRadians toDegrees rint".split(),
        "D",
    )
    | {"round": "L", "floorDiv": "L", "floorMod": "L"}
)
"""Functions of `Math`; the type of an empty one is that of its values."""

STATIC: Final[dict[str, tuple[str, str]]] = {
    "Math.PI": ("Math.PI", "D"),
    "Math.E": ("Math.E", "D"),
    "Integer.MAX_VALUE": ("2147483647", "I"),
    "Integer.MIN_VALUE": ("(-2147483648)", "I"),
    "Long.MAX_VALUE": ("9223372036854775807", "L"),
    "Long.MIN_VALUE": ("(-9223372036854775808)", "L"),
    "Double.MAX_VALUE": ("Number.MAX_VALUE", "D"),
    "Double.MIN_VALUE": ("Number.MIN_VALUE", "D"),
    "Double.NaN": ("NaN", "D"),
    "JSON.parse": ("_parse", "?"),
    "JSON.stringify": ("_stringify", "?"),
    "Date.now": ("_now", "L"),
    "Date.UTC": ("_f.dateUTC", "L"),
    "Date.parse": ("_f.dateParse", "L"),
    "Integer.parseInt": ("_f.parseInt", "?"),
    "Integer.valueOf": ("_f.parseInt", "?"),
    "Integer.toHexString": ("_f.hexString", "S"),
    "Integer.toBinaryString": ("_f.binaryString", "S"),
    "Integer.toString": ("_t", "S"),
    "Long.parseLong": ("_f.parseLong", "?"),
    "Long.valueOf": ("_f.parseLong", "?"),
    "Long.toHexString": ("_f.hexString", "S"),
    "Long.toString": ("_t", "S"),
    "Float.parseFloat": ("_f.parseFloat", "?"),
    "Double.parseDouble": ("_f.parseDouble", "?"),
    "Double.valueOf": ("_f.parseDouble", "?"),
    "Double.isNaN": ("_f.isNaN", "B"),
    "Double.toString": ("_dt", "S"),
    "Boolean.parseBoolean": ("_f.parseBoolean", "B"),
    "String.valueOf": ("_t", "S"),
    "String.join": ("_f.joined", "S"),
    "Arrays.asList": ("_f.listOf", "M"),
}

FUNCTIONS: Final = frozenset(
    """btoa atob bytesToString decodeToString decodeToJson stringToBytes parseInt parseLong parseFloat parseDouble
    toFixed toInt isNaN raiseError isMap isList isArray isSet newSet toSet padStart padEnd encodeURI decodeURI
    toFlatMap isInsidePolygon isInsideCircle hexToBytes hexToBytesArray bytesToHex base64ToHex hexToBase64
    base64ToBytes base64ToBytesList bytesToBase64 intToHex longToHex floatToHex doubleToHex intLongToRadixString
    parseHexToInt parseHexToLong parseHexToFloat parseHexToDouble parseLittleEndianHexToInt
    parseLittleEndianHexToLong parseLittleEndianHexToFloat parseLittleEndianHexToDouble parseBigEndianHexToInt
    parseBigEndianHexToLong parseBigEndianHexToFloat parseBigEndianHexToDouble parseHexIntLongToFloat
    parseBytesToInt parseBytesToLong parseBytesToFloat parseBytesToDouble parseBytesIntToFloat
    parseBytesLongToDouble parseByteToBinaryArray parseBytesToBinaryArray parseLongToBinaryArray
    parseBinaryArrayToInt printUnsignedBytes isBinary isOctal isDecimal isHexadecimal
    bytesToExecutionArrayList""".split()
)
"""All of reference §6.3 that a rule node can call."""

RESULTS: Final = {"toFixed": "D", "toInt": "I", "isNaN": "B", "isMap": "B", "isList": "B", "isArray": "B", "isSet": "B"}

OBJECT_NAMES: Final = frozenset(
    """constructor toString valueOf hasOwnProperty isPrototypeOf propertyIsEnumerable toLocaleString __proto__
    __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__ at concat copyWithin fill find findIndex
    findLast findLastIndex lastIndexOf pop push reverse shift unshift slice sort splice includes indexOf join keys
    entries values forEach filter flat flatMap map every some reduce reduceRight toReversed toSorted toSpliced with
    length size anchor big blink bold fixed fontcolor fontsize italics link small strike sub sup charAt charCodeAt
    codePointAt endsWith localeCompare match matchAll normalize padEnd padStart repeat replace replaceAll search
    split startsWith substr substring toUpperCase toLowerCase toLocaleUpperCase toLocaleLowerCase trim trimEnd
    trimStart trimLeft trimRight isWellFormed toWellFormed toFixed toExponential toPrecision has add get set
    clear difference intersection union description""".split()
)
"""Members that a JavaScript value has of itself: never read as a key without asking whose they are."""
