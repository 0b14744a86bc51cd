// A stand-in for every Apple library that ane_bench needs, in one shared library: the private
// classes of the Neural Engine's framework, IOSurface, the clock, sysctl and the power source, over
// a real Objective-C runtime and a real Foundation (GNUstep Base and GCC's libobjc on Linux;
// Apple's own on a Mac). It computes what the MIL text and the weight file say, refuses what the
// real framework refuses, and misbehaves on demand. Without settings it is an M4, at an M4's speed.
// Manual retain and release throughout.
//
// All of that is asked for in the environment, read once when the library is loaded. A value that
// cannot be read ends the process with status 70. VARIANT is fp16, w8a16 or w8a8; `[VARIANT/]`
// limits an item to one. There `SHAPE/` may stand, too, such as 512x64x128/ or 256x64x32k3/, alone
// or before the variant: the item is for programs of that shape.
//
//   STANDIN_LOG=FILE           a line per call is appended: `compile fp16 qos=21`, `evaluate fp16
//                              qos=21 -> YES`, `IOSurfaceCreate 65536`, `alloc CLASS 0xADDRESS`,
//                              `dealloc CLASS 0xADDRESS`, …
//   STANDIN_SPEED=LIST         VARIANT:MICROSECONDS+TOPS,…: what an evaluate costs, and the rate of
//                              its work. By default an M4's:
//                              fp16:100+18.6,w8a16:100+18.6,w8a8:100+36. 0: no time at all
//   STANDIN_LATENCY=LIST       VARIANT:MICROSECONDS,… per evaluate, in place of the default, or
//                              beside STANDIN_SPEED
//   STANDIN_THROTTLE=F@SECONDS from so many seconds after the first evaluate on, the speed is lower
//                              by that fraction: 0.12@60
//   STANDIN_DRIFT=F            latency grows by that fraction per second since the first evaluate
//   STANDIN_SPIKE=NxF          every N-th evaluate of the process takes F times as long
//   STANDIN_RISE=F:SECONDS     the engine's clock rises: at first an evaluate takes F times as
//                              long; as the engine works, for whichever program, the excess falls
//                              by the factor e in each SECONDS of work. Idling between two
//                              evaluates beyond 100 us brings it back, evenly, in 100 ms. Idling is
//                              what passes on the clock here
//   STANDIN_NOISE=HOW          random:SIGMA[,RHO]: times are multiplied by exp(g), g normal of
//                              width SIGMA, correlated from one evaluate to the next by RHO; the
//                              same in every process
//   STANDIN_CLOCK=KIND         real (default; an evaluate sleeps, but for the last 300 us) |
//                              virtual (a counter that an evaluate advances by the latency and each
//                              mach_absolute_time by one tick; nothing else counts, so that all
//                              figures are exact and idling is unknown, but for faults that are
//                              slow) | jump (the real clock; an evaluate returns at once and moves
//                              it on by exactly the latency: all that the program does between
//                              evaluates counts, as idling too). A tick is 125/3 ns
//   STANDIN_READING=HOW        still[@N] | backwards[@N]: what mach_absolute_time answers from its
//                              N-th call on, by default the first: always the same, or ever less
//   STANDIN_GAPS=FILE          one line per evaluate is appended, when a program is unloaded and at
//                              exit: the variant, the ns since the process's evaluate before
//                              returned (`-` for the first), the ns that it took itself
//   STANDIN_COMPUTE=WHAT       needed (default: all pixels of a program of at most 2^24
//                              multiply-adds; of a larger one those that the caller overwrote in
//                              the output before some evaluate, such as by NaN; the rest get 0) |
//                              all | none (evaluate leaves the output as it is). A new result is
//                              computed after the input surface was locked for writing; the output
//                              is written again after it was. Pixels of 3x3 chains are computed
//                              with all neighbours that they depend on
//   STANDIN_ARITHMETIC=HOW     m4 (default: products rounded half away from zero to multiples of
//                              2^-16 and dropped where the exponents add up to -17 or less, exact
//                              sums, infinite for good from 32768 on; int8 by int8 in integers) |
//                              exact (sums without rounding)
//   STANDIN_STORE=TYPE         fp16 (default) | fp32: how convolutions but the last are stored
//   STANDIN_ROUNDING=HOW       even | away: where ties go when results are stored and when they are
//                              quantized; away for m4, else even
//   STANDIN_QUANTIZE=HOW       the same for quantize alone
//   STANDIN_ROW=BYTES          a row of a tensor takes a multiple of so many bytes, 64 by default,
//                              in input and output. What stands in the padding behind a row of the
//                              input is added to each of its pixels. A surface smaller than the
//                              whole is refused with status 0x1d
//   STANDIN_PLANE=BYTES        a channel does, 1 by default
//   STANDIN_ATTRIBUTES=LIST    what a loaded model tells of this, items separated by `;`: none (it
//                              has no such methods), inner (the inner model alone: modelAttributes
//                              of the outer one raises an NSException), outer (it alone: there is
//                              no inner model), empty (after load, too), text (strings for
//                              numbers), lists (arrays for dictionaries), KEY=VALUE (a number or
//                              text in place of what the program has; without a value the key is
//                              absent, and [] is an empty array)
//   STANDIN_FAULT=ITEMS        `[VARIANT/]STAGE:KIND[@WHEN]` separated by `;`, calls counted per
//                              stage and variant in each process. Stages: descriptor model
//                              identifier localModelPath compile load surface surfaceobject request
//                              evaluate unload purge lock. Kinds: nil or no (nil, NO and an
//                              NSError; a lock fails), once (no, at the first call alone, or at the
//                              N-th with @N), silent (NO without an NSError), unicode (NO, with a
//                              description that is not ASCII), busy[=SECONDS] (NO, code 54, status
//                              0x5, "no ANE resources"; so long since the first such call if
//                              SECONDS are given), raise (an NSException), crash (SIGSEGV), exit
//                              (status 0, at once), hang, killdir (removes the model's directory
//                              and goes on), rubbish (bytes that are no JSON on descriptors 1 and
//                              2, goes on), slow=SECONDS (sleeps and goes on; a virtual clock moves
//                              on by as much). purge, which returns nothing, is skipped by nil, no,
//                              silent
//   WHEN                       of calls that are counted from 1: N (from the N-th on), N-M (from
//                              the N-th to the M-th), K+O (each K-th, as many after a multiple of K
//                              as O says)
//   STANDIN_REASON=ITEMS       `[VARIANT/][STAGE:]REASON` separated by `;`: the reason that
//                              compile, load or evaluate (compile and load, if no stage is named)
//                              give for each refusal, as `err=(REASON)`, or as a status if it
//                              begins with 0x. By default InvalidMILProgram for a program that is
//                              refused. A fault says "the stand-in was told to refuse at STAGE",
//                              followed by the reason if there is one here
//   STANDIN_CHAIN=SHAPE        where the reason stands in a refusal's NSErrors: DEPTH (1 by
//                              default: in the underlying error of the one that is handed out; 0:
//                              in that one itself, 2 and more: further below), loop (in the
//                              underlying one, which is its own underlying error), pair (there too;
//                              its underlying error is the outer one), nil (nowhere, and userInfo
//                              is nil), text (the underlying error is an NSString)
//   STANDIN_DAEMON=FILE        the compile service's state, shared by processes. Once a compile or
//                              load has hung or crashed the file is there, and as long as it is all
//                              compiles and loads of all processes hang. A compile or load that is
//                              slow keeps those of all other processes waiting, also if its own
//                              process is killed
//   STANDIN_RESTART=SECONDS    after a refused compile all compiles are refused for that long, as
//                              CompilationFailure whatever STANDIN_REASON says (it is not made
//                              longer by these); in all processes with STANDIN_DAEMON
//   STANDIN_MISSING=NAMES      classes that objc_getClass, and selectors (also `Class.selector`)
//                              that class_get…Method do not know; separated by spaces
//   STANDIN_ENCODING=LIST      selector=encoding, separated by spaces: what method_getTypeEncoding
//                              answers
//   STANDIN_OUTPUT=ITEMS       `[VARIANT/]KIND[@WHEN]` separated by `;`, all that apply together,
//                              evaluates counted per variant in each process: nan inf zeros
//                              constant noop (YES, and nothing was done) works:WHEN (noop but for
//                              these evaluates; of several, any) every:K+O (the same) aliased (all
//                              layers have the first one's weights) swapped[:I,J] (two layers'
//                              weights, by default the middle ones) scale:F[,LAYER] (a layer's
//                              weights, by default the middle one's) drop:CHANNEL[,LAYER] (of its
//                              input) unquantized (no quantize, no dequantize) transposed[:LAYER]
//                              (3x3 kernels in space, by default all) border (3x3: the nearest
//                              pixel in place of padding)
//   STANDIN_REFUSE=LIST        of `[VARIANT/]FORM`, compile says NO: standard (weight records with
//                              a data offset), original (without one), short (program(1.3), ios18),
//                              early (program(1.3), an older opset), long (program(1.0)). Scalars
//                              are short in program(1.3), long in program(1.0); a program that
//                              mixes them, or whose directory holds net.plist or data before it is
//                              compiled, is always refused
//   STANDIN_LIMITS=LIST        layers:N (compile crashes if a program has more), bytes:N (load says
//                              NO if the weight file is larger, as 0x20004), resident:N (load says
//                              NO if as many are loaded, as 0x50004), working:N (evaluates of the
//                              programs that were loaded when as many were fail, as 0x16),
//                              writing:N (they say YES and write nothing); separated by `,`
//   STANDIN_CACHE=DIR          where compiled programs are remembered between processes, and seen:
//                              a file for each that was not purged, with its variant; in memory by
//                              default
//   STANDIN_TEMPORARY=DIR      what NSTemporaryDirectory answers, whatever TMPDIR says (not on a
//                              Mac)
//   STANDIN_MODEL_PATH=PATH    what localModelPath answers, `%` in it standing for the identifier.
//                              The program's files are looked for there; nothing there is ever
//                              removed by the stand-in
//   STANDIN_SYSCTL=LIST        name=value;… beside the defaults below; an empty value makes a name
//                              unknown
//   STANDIN_COMPATIBLE=V       kern.osproductversion, unless SYSTEM_VERSION_COMPAT is 0 when the
//                              process starts
//   STANDIN_DEVICE=LIST        name=value,… beside the defaults below; an empty value is nil or 0
//   STANDIN_POWER=TEXT         "AC Power" (default); empty is NULL
//   STANDIN_THERMAL=LIST       successive answers of thermalState, the last one for good; 0 by
//                              default
//   STANDIN_LOW_POWER=0|1      isLowPowerModeEnabled; 0 by default

#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // RTLD_NEXT
#endif
#import <Foundation/Foundation.h>
#import <objc/runtime.h>
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// Gives a C function the name of a library's own, whose prototype may be a macro or inline in the
// headers. The real one is found by dlsym(RTLD_NEXT).
#define LABEL_(prefix, name) __asm__(#prefix name)
#define LABEL(prefix, name) LABEL_(prefix, name)
#define EXPORTED(name) LABEL(__USER_LABEL_PREFIX__, name)

// =================================================================================================
// Settings: the environment
// =================================================================================================

enum { MostItems = 32 };

typedef enum { NoVariant, FP16, W8A16, W8A8, Variants } Variant;
static const char *const variantNames[Variants] = {"-", "fp16", "w8a16", "w8a8"};

typedef enum {
    AtDescriptor, AtModel, AtIdentifier, AtLocalModelPath, AtCompile, AtLoad, AtSurface,
    AtSurfaceObject, AtRequest, AtEvaluate, AtUnload, AtPurge, AtLock, Stages
} Stage;
static const char *const stageNames[Stages] = {
    "descriptor", "model", "identifier", "localModelPath", "compile", "load", "surface",
    "surfaceobject", "request", "evaluate", "unload", "purge", "lock"};

typedef enum {
    AnswerNil, AnswerNo, AnswerOnce, AnswerSilently, AnswerInUnicode, Busy, Raise, Crash,
    ExitAtOnce, Hang, KillDirectory, WriteRubbish, Slow, FaultKinds
} FaultKind;
static const char *const faultNames[FaultKinds] = {
    "nil", "no", "once", "silent", "unicode", "busy", "raise", "crash", "exit", "hang", "killdir",
    "rubbish", "slow"};

typedef enum {
    NaNs, Infinities, Zeros, Constant, Noop, Works, WorksEach, Aliased, Swapped, Scaled, Dropped,
    Unquantized, Transposed, Replicated, OutputKinds
} OutputKind;
static const char *const outputNames[OutputKinds] = {
    "nan", "inf", "zeros", "constant", "noop", "works", "every", "aliased", "swapped", "scale",
    "drop", "unquantized", "transposed", "border"};
// The least and the greatest count of numbers that each takes.
static const char outputNumbers[OutputKinds][2] = {
    [Swapped] = {0, 2}, [Scaled] = {1, 2}, [Dropped] = {1, 2}, [Transposed] = {0, 1}};

typedef enum { RealClock, VirtualClock, JumpingClock } ClockKind;
typedef enum { Forwards, Still, Backwards } Reading;
typedef enum { Needed, All, Nothing } Computing;
typedef enum { Layers, Bytes, Resident, Working, Writing, Limits } Limit;

// Of a clock that is not real: the counter, or how far evaluates and faults have moved the real one
// on.
static uint64_t movedTicks;

typedef struct { Variant variant; const char *shape; } Scope;  // NoVariant or NULL if it is for all
typedef struct { long from, to, every; } When;  // `every` is 0 if it is a range
// Of STANDIN_FAULT, _REASON, _OUTPUT or _REFUSE; `numbers` says how many it has.
typedef struct {
    Scope scope;
    When when;
    int stage, kind, numbers;
    double first, second;
    const char *reason;
} Item;
typedef struct { Item of[MostItems]; int count; } Items;

// The shape of a chain of NSErrors: a number of levels below the outermost, or one of these.
enum { LoopChain = -1, PairChain = -2, NilChain = -3, TextChain = -4 };

static struct {
    int log, gaps, chain;
    Computing compute;
    BOOL isM4, storeFloat, storeAway, quantizeAway, lowPower;
    size_t row, plane;  // the units of their strides, in bytes
    ClockKind clock;
    Reading reading;
    long readingFrom;  // the first call of which `reading` is true
    double latency[Variants], rate[Variants];  // ticks, and operations per tick or 0
    double drift, spikeEvery, spikeFactor, rise, riseSeconds, throttle, throttleSeconds, sigma, rho,
        restart;
    Items faults, reasons, outputs, refusals;
    const char *missing, *encodings, *cache, *sysctls, *device, *power, *thermal, *daemon,
        *temporary, *modelPath, *compatible, *attributes;
    long limits[Limits];
} settings = {.log = -1, .gaps = -1};  // until the constructor runs: Foundation may call us before

// Names and numbers cut from a line of the environment.
typedef char Text[256];

__attribute__((noreturn)) static void reject(const char *name, const char *value) {
    fprintf(stderr, "standin: %s: cannot read %s\n", name, value);
    _exit(70);
}

// The next item of a list, and how far the list was read; NO at its end.
static BOOL nextItem(const char **list, const char *separators, Text item) {
    const char *at = *list ? *list + strspn(*list, separators) : "";
    size_t length = strcspn(at, separators);
    if (!length)
        return NO;
    snprintf(item, sizeof(Text), "%.*s", (int)length, at);
    *list = at + length;
    return YES;
}

// The value of `name` in a list of NAME=VALUE or NAME:VALUE.
static BOOL valueOf(const char *list, const char *separators, const char *name, Text value) {
    Text item;
    size_t length = strlen(name);
    while (nextItem(&list, separators, item))
        if (!strncmp(item, name, length) && (item[length] == '=' || item[length] == ':')) {
            memmove(value, item + length + 1, strlen(item + length + 1) + 1);
            return YES;
        }
    return NO;
}

static BOOL isListed(const char *list, const char *separators, const char *name) {
    Text item;
    while (nextItem(&list, separators, item))
        if (!strcmp(item, name))
            return YES;
    return NO;
}

static int indexOf(const char *name, const char *const *names, int count) {
    for (int index = 0; index < count; index++)
        if (!strcmp(name, names[index]))
            return index;
    return -1;
}

static const char *variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? strdup(value) : otherwise;
}

// Which of some names, the first by default, a variable has.
static int choiceOf(const char *name, const char *const *names, int count) {
    const char *value = variable(name, names[0]);
    int found = indexOf(value, names, count);
    if (found < 0)
        reject(name, value);
    return found;
}

// Cuts `SHAPE/` and `VARIANT/` off an item's front.
static Scope cutScope(Text item, const char *name) {
    Scope scope = {NoVariant, NULL};
    for (char *slash = strchr(item, '/'); slash; slash = strchr(item, '/')) {
        *slash = 0;
        int found = indexOf(item, variantNames, Variants);
        if (found > 0)
            scope.variant = (Variant)found;
        else if (item[strspn(item, "0123456789xk")])
            reject(name, item);
        else
            scope.shape = strdup(item);
        memmove(item, slash + 1, strlen(slash + 1) + 1);
    }
    return scope;
}

// The shape of the program that was made last, such as 512x64x128 or 256x64x32k3. A process has
// programs of one shape.
static Text currentShape;

static BOOL isWithin(const Scope *scope, Variant variant) {
    return (!scope->variant || scope->variant == variant)
        && (!scope->shape || !strcmp(scope->shape, currentShape));
}

// Cuts an item in two at a character; the second part, or NULL.
static char *cutAt(char *item, char character) {
    char *found = strchr(item, character);
    if (found)
        *found++ = 0;
    return found;
}

// The whole of a text as a number; ends the process otherwise.
static double readNumber(const char *name, const char *text) {
    char *end;
    double number = strtod(text, &end);
    if (!*text || *end || !isfinite(number))
        reject(name, text);
    return number;
}

// One or two numbers of a variable; those that it does not have stay as they are.
static void readPair(
    const char *name, const char *prefix, char separator, double *first, double *second) {
    Text text;
    size_t length = strlen(prefix);
    snprintf(text, sizeof text, "%s", variable(name, ""));
    if (!*text)
        return;
    char *other = cutAt(text, separator);
    if (strncmp(text, prefix, length) || (!other && separator != ','))
        reject(name, text);
    *first = readNumber(name, text + length);
    *second = other ? readNumber(name, other) : *second;
}

static void check(const char *name, BOOL right) {
    if (!right)
        reject(name, variable(name, ""));
}

// N, N-M or K+O; NO if the text is none of these.
static BOOL readWhen(const char *text, When *when) {
    int length = 0;
    long first, second;
    if (sscanf(text, "%ld+%ld%n", &first, &second, &length) == 2 && !text[length] && first > 0
        && second >= 0)
        *when = (When){.from = second, .every = first};
    else if (sscanf(text, "%ld-%ld%n", &first, &second, &length) == 2 && !text[length] && first > 0
        && second >= first)
        *when = (When){.from = first, .to = second};
    else if (sscanf(text, "%ld%n", &first, &length) == 1 && !text[length] && first > 0)
        *when = (When){.from = first, .to = LONG_MAX};
    else
        return NO;
    return YES;
}

static BOOL isDue(const When *when, long call) {
    return when->every ? call % when->every == when->from % when->every
                       : call >= when->from && call <= when->to;
}

static BOOL readFault(char *text, Item *fault) {
    char *kind = cutAt(text, ':'), *seconds = kind ? cutAt(kind, '=') : NULL;
    fault->stage = indexOf(text, stageNames, Stages);
    fault->kind = kind ? indexOf(kind, faultNames, FaultKinds) : -1;
    fault->first = seconds ? readNumber("STANDIN_FAULT", seconds) : 0;
    if (fault->kind == AnswerOnce && fault->when.to == LONG_MAX)
        fault->when.to = fault->when.from;
    return fault->stage >= 0 && fault->kind >= 0
        && (fault->kind == Busy || (fault->kind == Slow) == (seconds != NULL));
}

static BOOL readReason(char *text, Item *reason) {
    char *words = cutAt(text, ':');
    reason->stage = words ? indexOf(text, stageNames, Stages) : Stages;
    reason->reason = strdup(words ? words : text);
    return *reason->reason
        && (reason->stage == AtCompile || reason->stage == AtLoad || reason->stage == AtEvaluate
            || reason->stage == Stages);
}

static BOOL readOutput(char *text, Item *output) {
    char *numbers = cutAt(text, ':');
    int found = indexOf(text, outputNames, OutputKinds), length = 0;
    output->kind = found;
    if (found == Works || found == WorksEach)
        return numbers && readWhen(numbers, &output->when)
            && (found == WorksEach) == (output->when.every != 0);
    if (found >= 0 && numbers) {
        output->numbers =
            sscanf(numbers, "%lf%n,%lf%n", &output->first, &length, &output->second, &length);
        if (output->numbers < 1 || numbers[length])
            return NO;
    }
    return found >= 0 && output->numbers >= outputNumbers[found][0]
        && output->numbers <= outputNumbers[found][1];
}

static const char *const formNames[] = {"standard", "original", "short", "early", "long"};

static BOOL readRefusal(char *text, Item *refusal) {
    refusal->kind = indexOf(text, formNames, 5);
    return refusal->kind >= 0;
}

static void readItems(
    const char *name, const char *separators, Items *items, BOOL (*read)(char *, Item *)) {
    Text text;
    for (const char *list = variable(name, ""); nextItem(&list, separators, text);) {
        Item item = {.scope = cutScope(text, name), .when = {1, LONG_MAX, 0}};
        char *when = cutAt(text, '@');
        if (items->count == MostItems || (when && !readWhen(when, &item.when))
            || !read(text, &item))
            reject(name, text);
        items->of[items->count++] = item;
    }
}

static int readChain(const char *value) {
    static const char *const shapes[] = {"", "loop", "pair", "nil", "text"};
    int shape = indexOf(value, shapes, 5);
    if (shape > 0)
        return -shape;
    double depth = readNumber("STANDIN_CHAIN", value);
    if (depth < 0 || depth > 20 || depth != floor(depth))
        reject("STANDIN_CHAIN", value);
    return (int)depth;
}

static size_t readUnit(const char *name, const char *otherwise) {
    const char *value = variable(name, otherwise);
    double bytes = readNumber(name, value);
    if (bytes < 1 || bytes > 1 << 20 || bytes != floor(bytes))
        reject(name, value);
    return (size_t)bytes;
}

static const char *readAttributes(const char *list) {
    static const char *const kinds[] = {"none", "inner", "outer", "empty", "text", "lists"};
    static const char *const keys[] = {
        "NetworkStatusList", "LiveInputList", "LiveOutputList", "Name", "Symbol", "Type", "Batches",
        "Channels", "Depth", "Height", "Width", "Interleave", "PlaneCount", "BatchStride",
        "DepthStride", "PlaneStride", "RowStride"};
    Text item;
    for (const char *rest = list; nextItem(&rest, ";", item);)
        if (cutAt(item, '=') ? indexOf(item, keys, 17) < 0 : indexOf(item, kinds, 6) < 0)
            reject("STANDIN_ATTRIBUTES", item);
    return list;
}

static const double ticksPerSecond = 24e6, ticksPerMicrosecond = 24;

// An M4's speed, unless another is asked for.
static void readSpeeds(void) {
    Text value;
    const char *latencies = variable("STANDIN_LATENCY", "");
    const char *speeds =
        variable("STANDIN_SPEED", *latencies ? "" : "fp16:100+18.6,w8a16:100+18.6,w8a8:100+36");
    if (!strcmp(speeds, "0"))
        speeds = "";
    for (int variant = FP16; variant < Variants; variant++) {
        if (valueOf(latencies, ",", variantNames[variant], value))
            settings.latency[variant] = readNumber("STANDIN_LATENCY", value) * ticksPerMicrosecond;
        if (!valueOf(speeds, ",", variantNames[variant], value))
            continue;
        char *rate = cutAt(value, '+');
        if (!rate || readNumber("STANDIN_SPEED", rate) <= 0)
            reject("STANDIN_SPEED", speeds);
        settings.latency[variant] += readNumber("STANDIN_SPEED", value) * ticksPerMicrosecond;
        settings.rate[variant] = readNumber("STANDIN_SPEED", rate) * 1e12 / ticksPerSecond;
    }
}

static void readClockSettings(void) {
    static const char *const kinds[] = {"real", "virtual", "jump"};
    static const char *const readings[] = {"", "still", "backwards"};
    Text reading;
    settings.clock = (ClockKind)choiceOf("STANDIN_CLOCK", kinds, 3);
    movedTicks = settings.clock == VirtualClock ? 24000000000u : 0;  // it can run back
    snprintf(reading, sizeof reading, "%s", variable("STANDIN_READING", ""));
    char *from = cutAt(reading, '@');
    int how = indexOf(reading, readings, 3);
    if (how < 0)
        reject("STANDIN_READING", reading);
    settings.reading = (Reading)how;
    settings.readingFrom = from ? (long)readNumber("STANDIN_READING", from) : 1;
}

static void readTimes(void) {
    const char *gaps = variable("STANDIN_GAPS", "");
    settings.spikeEvery = settings.spikeFactor = settings.rise = settings.riseSeconds = 1;
    readSpeeds();
    readClockSettings();
    settings.drift = readNumber("STANDIN_DRIFT", variable("STANDIN_DRIFT", "0"));
    readPair("STANDIN_SPIKE", "", 'x', &settings.spikeEvery, &settings.spikeFactor);
    readPair("STANDIN_RISE", "", ':', &settings.rise, &settings.riseSeconds);
    readPair("STANDIN_THROTTLE", "", '@', &settings.throttle, &settings.throttleSeconds);
    readPair("STANDIN_NOISE", "random:", ',', &settings.sigma, &settings.rho);
    check("STANDIN_SPIKE", settings.spikeEvery >= 1 && settings.spikeFactor > 0);
    check("STANDIN_RISE", settings.rise >= 1 && settings.riseSeconds > 0);
    check("STANDIN_THROTTLE", settings.throttle >= 0 && settings.throttle < 1);
    check("STANDIN_NOISE", settings.sigma >= 0 && fabs(settings.rho) < 1);
    if (*gaps && (settings.gaps = open(gaps, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) < 0)
        reject("STANDIN_GAPS", gaps);
}

// An M4 has its own roundings, unless others are asked for.
static void readArithmetic(void) {
    static const char *const names[] = {"m4", "exact"}, *const stores[] = {"fp16", "fp32"};
    static const char *const even[] = {"even", "away"}, *const away[] = {"away", "even"};
    BOOL isM4 = choiceOf("STANDIN_ARITHMETIC", names, 2) == 0;
    settings.storeAway = (choiceOf("STANDIN_ROUNDING", isM4 ? away : even, 2) == 0) == isM4;
    const char *const *usual = settings.storeAway ? away : even;
    settings.quantizeAway = (choiceOf("STANDIN_QUANTIZE", usual, 2) == 0) == settings.storeAway;
    settings.isM4 = isM4;
    settings.storeFloat = choiceOf("STANDIN_STORE", stores, 2) == 1;
}

static void readLimits(const char *list) {
    static const char *const names[] = {"layers", "bytes", "resident", "working", "writing"};
    Text item;
    for (int index = 0; index < Limits; index++)
        settings.limits[index] = LONG_MAX;
    while (nextItem(&list, ",", item)) {
        char *number = cutAt(item, ':');
        int found = indexOf(item, names, Limits);
        if (!number || found < 0)
            reject("STANDIN_LIMITS", item);
        settings.limits[found] = (long)readNumber("STANDIN_LIMITS", number);
    }
}

__attribute__((constructor)) static void readSettings(void) {
    static const char *const computings[] = {"needed", "all", "none"}, *const flags[] = {"0", "1"};
    const char *log = variable("STANDIN_LOG", "");
    if (*log && (settings.log = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) < 0)
        reject("STANDIN_LOG", log);
    settings.compute = (Computing)choiceOf("STANDIN_COMPUTE", computings, 3);
    settings.row = readUnit("STANDIN_ROW", "64");
    settings.plane = readUnit("STANDIN_PLANE", "1");
    settings.attributes = readAttributes(variable("STANDIN_ATTRIBUTES", ""));
    readArithmetic();
    readTimes();
    readLimits(variable("STANDIN_LIMITS", ""));
    readItems("STANDIN_FAULT", ";", &settings.faults, readFault);
    readItems("STANDIN_REASON", ";", &settings.reasons, readReason);
    readItems("STANDIN_OUTPUT", ";", &settings.outputs, readOutput);
    readItems("STANDIN_REFUSE", ",", &settings.refusals, readRefusal);
    settings.chain = readChain(variable("STANDIN_CHAIN", "1"));
    settings.restart = readNumber("STANDIN_RESTART", variable("STANDIN_RESTART", "0"));
    settings.lowPower = choiceOf("STANDIN_LOW_POWER", flags, 2);
    settings.daemon = variable("STANDIN_DAEMON", "");
    settings.temporary = variable("STANDIN_TEMPORARY", "");
    settings.modelPath = variable("STANDIN_MODEL_PATH", "%");
    settings.compatible = variable("STANDIN_COMPATIBLE", "");
    settings.encodings = variable("STANDIN_ENCODING", "");
    settings.cache = variable("STANDIN_CACHE", "");
    settings.sysctls = variable("STANDIN_SYSCTL", "");
    settings.device = variable("STANDIN_DEVICE", "");
    settings.power = variable("STANDIN_POWER", "AC Power");
    settings.thermal = variable("STANDIN_THERMAL", "0");
    settings.missing = variable("STANDIN_MISSING", "");
}

// =================================================================================================
// Log and errors
// =================================================================================================

// One line by one write: processes that share the file do not cut each other's lines.
__attribute__((format(printf, 1, 2))) static void writeLog(const char *format, ...) {
    char line[512];
    if (settings.log < 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    length = length < (int)sizeof line - 1 ? length : (int)sizeof line - 2;
    line[length] = '\n';
    if (write(settings.log, line, (size_t)length + 1) < 0)
        perror("standin: STANDIN_LOG");
}

static NSString *const engineDomain = @"com.apple.appleneuralengine";
static NSString *const compilerDomain = @"com.apple.appleneuralengine.compiler";

// An error that makes its userInfo when asked, so that it can be its own underlying one.
@interface StandInError : NSError {
@public
    NSString *text;
    id cause;  // not retained by itself, see `errorChain`
    BOOL keepsCause, hasNoUserInfo;
}
@end

@implementation StandInError
- (NSDictionary *)userInfo {
    if (hasNoUserInfo)
        return nil;
    // Apple's NSUnderlyingErrorKey is "NSUnderlyingError"; GNUstep's has another value.
    return [NSDictionary dictionaryWithObjectsAndKeys:text, NSLocalizedDescriptionKey, cause,
        @"NSUnderlyingError", cause, NSUnderlyingErrorKey, nil];
}

- (NSString *)localizedDescription { return text; }

- (void)dealloc {
    [text release];
    if (keepsCause)
        [cause release];
    [super dealloc];
}
@end

static StandInError *standInError(NSString *domain, NSInteger code, NSString *text, id cause) {
    StandInError *error = [[StandInError alloc] initWithDomain:domain code:code userInfo:nil];
    error->text = [text copy];
    error->cause = [cause retain];
    error->keepsCause = YES;
    return [error autorelease];
}

// Sets the NSError where the caller wants one, and says NO.
static BOOL refuse(NSError **error, NSInteger code, NSString *description) {
    if (error)
        *error = standInError(engineDomain, code, description, nil);
    return NO;
}

// What the framework hands out: an outer error that says what failed, and below it, as
// STANDIN_CHAIN has it, one with the reason.
static NSError *errorChain(NSString *domain, NSInteger code, NSString *what, NSString *why) {
    if (!settings.chain)
        return standInError(domain, code, [NSString stringWithFormat:@"%@ %@", what, why], nil);
    if (settings.chain == TextChain)
        return standInError(domain, code, what, why);
    StandInError *inner = standInError(domain, code, why, nil);
    for (int level = settings.chain - 1; level > 0; level--)
        inner = standInError(domain, code,
            [NSString stringWithFormat:@"error %d below the outermost", level], inner);
    StandInError *outer = standInError(domain, code, what, inner);
    outer->hasNoUserInfo = settings.chain == NilChain;
    if (settings.chain == LoopChain || settings.chain == PairChain) {
        inner->cause = settings.chain == LoopChain ? inner : outer;
        inner->keepsCause = NO;
    }
    return outer;
}

// What STANDIN_REASON says, or NULL.
static const char *reasonFor(Stage stage, Variant variant) {
    for (int index = 0; index < settings.reasons.count; index++) {
        const Item *reason = &settings.reasons.of[index];
        BOOL applies = reason->stage == (int)stage
            || (reason->stage == Stages && (stage == AtCompile || stage == AtLoad));
        if (applies && isWithin(&reason->scope, variant))
            return reason->reason;
    }
    return NULL;
}

// A reason in the framework's words.
static NSString *wordsFor(Stage stage, const char *reason) {
    if (stage == AtEvaluate && !strncmp(reason, "0x", 2))
        return [NSString stringWithFormat:
            @"ANEProgramProcessRequestDirect() Failed with status=%s : statusType=0x9", reason];
    return [NSString stringWithFormat:strncmp(reason, "0x", 2) ? @"err=(%s)" : @"(%s)", reason];
}

// Refuses at a stage, as the framework does.
static BOOL refuseAt(Stage stage, NSError **error, NSString *why) {
    static NSString *const words[Stages] = {
        [AtCompile] = @"_ANECompiler : ANECCompile() FAILED", [AtLoad] = @"Program load failure",
        [AtUnload] = @"Program unload failure", [AtEvaluate] = @"Program Inference error"};
    NSInteger code = stage == AtCompile ? 1 : stage == AtLoad ? 6 : 8;
    NSString *domain = stage == AtCompile ? compilerDomain : engineDomain;
    if (error)
        *error = errorChain(domain, code, words[stage], why);
    return NO;
}

// The same for a reason of the framework's own, unless STANDIN_REASON has another.
static BOOL refuseBecause(Stage stage, Variant variant, NSError **error, const char *reason) {
    const char *given = reasonFor(stage, variant);
    return refuseAt(stage, error, wordsFor(stage, given ? given : reason));
}

// Every private object says when it comes and goes, so that a log shows what leaked.
@interface StandInObject : NSObject
@end

// The class's name as the log has it.
static const char *loggedName(Class class) {
    const char *name = class_getName(class);
    return strncmp(name, "StandIn", 7) ? name : name + 7;
}

@implementation StandInObject
+ (id)allocWithZone:(NSZone *)zone {
    id object = [super allocWithZone:zone];
    writeLog("alloc %s %p", loggedName(self), (void *)object);
    return object;
}

- (void)dealloc {
    writeLog("dealloc %s %p", loggedName([self class]), (void *)self);
    [super dealloc];
}
@end

// =================================================================================================
// Clock
// =================================================================================================

#ifdef CLOCK_UPTIME_RAW
#define CLOCK CLOCK_UPTIME_RAW  // what mach_absolute_time is on a Mac
#else
#define CLOCK CLOCK_MONOTONIC
#endif

static uint64_t realClock(void) {
    struct timespec now;
    clock_gettime(CLOCK, &now);
    return ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) * 3 / 125;
}

static uint64_t readClock(void) {
    uint64_t real = settings.clock == VirtualClock ? 0 : realClock();
    return real + __atomic_load_n(&movedTicks, __ATOMIC_RELAXED);
}

static void moveClock(double ticks) {
    __atomic_add_fetch(&movedTicks, (uint64_t)llround(ticks), __ATOMIC_RELAXED);
}

uint64_t standInAbsoluteTime(void) EXPORTED("mach_absolute_time");
uint64_t standInAbsoluteTime(void) {
    static long calls;
    static uint64_t turn;
    uint64_t now = settings.clock == VirtualClock
        ? __atomic_add_fetch(&movedTicks, 1, __ATOMIC_RELAXED)
        : readClock();
    if (!settings.reading || ++calls < settings.readingFrom)
        return now;
    turn = turn ? turn : now;
    return settings.reading == Still ? turn : 2 * turn - now;
}

int standInTimebase(uint32_t *fraction) EXPORTED("mach_timebase_info");
int standInTimebase(uint32_t *fraction) {
    fraction[0] = 125;
    fraction[1] = 3;
    return 0;
}

static void sleepFor(double seconds) {
    struct timespec rest = {
        .tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - floor(seconds)) * 1e9)};
    while (nanosleep(&rest, &rest) && errno == EINTR)
        ;
}

// =================================================================================================
// How long an evaluate takes, and how long since the one before
// =================================================================================================

static struct {
    long count;  // evaluates of the process
    uint64_t first, last;  // when the first began, and the last returned; 0 if there was none
    double excess;  // how far the engine's clock is from its height: 1 at first, 0 at last
} engine = {.excess = 1};

// A number between 0 and 1, the same in each process.
static double draw(void) {
    static uint64_t state;
    uint64_t mixed = state += 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
    return ((double)((mixed ^ mixed >> 31) >> 11) + 0.5) / 0x1p53;
}

// What noise multiplies an evaluate's time by.
static double noiseFactor(void) {
    static double walk;
    walk = settings.rho * walk
        + sqrt((1 - settings.rho * settings.rho) * -2 * log(draw())) * cos(2 * M_PI * draw());
    return exp(settings.sigma * walk);
}

// How much longer work of so many ticks takes while the engine's clock rises, which it does
// meanwhile. Its excess falls exponentially; the speed is 1 / (1 + (F - 1) * excess), and its
// integral over the time is the work.
static double riseTicks(double ticks, uint64_t started) {
    const double grace = 100e-6 * ticksPerSecond, fall = 0.1 * ticksPerSecond;
    double idle = engine.last ? (double)(started - engine.last) : 0;
    if (idle > grace)
        engine.excess = fmin(1, engine.excess + (idle - grace) / fall);
    double above = (settings.rise - 1) * engine.excess,
           scale = settings.riseSeconds * ticksPerSecond;
    double longer = ticks + scale * log(1 + above - above * exp(-ticks / scale));
    engine.excess *= exp(-longer / scale);
    return longer;
}

static double latencyOf(Variant variant, double operations, uint64_t started) {
    double latency = settings.latency[variant]
        + (settings.rate[variant] ? operations / settings.rate[variant] : 0);
    double seconds = (double)(started - engine.first) / ticksPerSecond;
    latency *= 1 + settings.drift * seconds;
    if (settings.throttle && seconds >= settings.throttleSeconds)
        latency /= 1 - settings.throttle;
    if (fmod((double)engine.count, settings.spikeEvery) == 0)
        latency *= settings.spikeFactor;
    if (settings.sigma)
        latency *= noiseFactor();
    return settings.rise > 1 ? riseTicks(latency, started) : latency;
}

// Lets real time pass: sleeps, as a caller of the real engine does, but for the last moment.
static void waitUntil(uint64_t started, double latency) {
    const double moment = 300e-6 * ticksPerSecond;
    double rest = latency - (double)(readClock() - started);
    if (rest > moment)
        sleepFor((rest - moment) / ticksPerSecond);
    while ((double)(readClock() - started) < latency)
        ;
}

// Makes an evaluate that began at `started`, and has slept for some ticks since, take as long as it
// should.
static void spendTime(Variant variant, double operations, uint64_t started, double slept) {
    engine.count++;
    engine.first = engine.first ? engine.first : started;
    double latency = latencyOf(variant, operations, started);
    if (settings.clock == VirtualClock)
        moveClock(latency);
    else if (settings.clock == JumpingClock)
        moveClock(latency + slept - (double)(readClock() - started));
    else
        waitUntil(started, latency);
}

typedef struct { Variant variant; int64_t gap; uint64_t took; } Gap;  // ticks; -1 for the first
static Gap *gaps;
static size_t gapCount, gapRoom;

__attribute__((destructor)) static void writeGaps(void) {
    for (size_t index = 0; index < gapCount; index++) {
        char gap[32] = "-";
        if (gaps[index].gap >= 0)
            snprintf(gap, sizeof gap, "%.0f", (double)gaps[index].gap * 125 / 3);
        dprintf(settings.gaps, "%s %s %.0f\n", variantNames[gaps[index].variant], gap,
                (double)gaps[index].took * 125 / 3);
    }
    gapCount = 0;
}

// Notes when an evaluate returns.
static void noteReturn(Variant variant, uint64_t started) {
    uint64_t now = readClock();
    if (settings.gaps >= 0) {
        if (gapCount == gapRoom) {
            gapRoom = gapRoom ? 2 * gapRoom : 1 << 16;
            gaps = realloc(gaps, gapRoom * sizeof *gaps);
        }
        gaps[gapCount++] =
            (Gap){variant, engine.last ? (int64_t)(started - engine.last) : -1, now - started};
    }
    engine.last = now;
}

// =================================================================================================
// Faults
// =================================================================================================

typedef enum { GoOn, Refuse, RefuseSilently, RefuseInUnicode, RefuseAsBusy } Verdict;

static double sleptTicks;  // by faults

static void writeRubbish(void) {
    static const char rubbish[] = "\xff\xfe{ this is not JSON \x80\n";
    for (int descriptor = 1; descriptor <= 2; descriptor++)
        if (write(descriptor, rubbish, sizeof rubbish - 1) < 0)
            return;
}

static BOOL isOfService(Stage stage) {
    return stage == AtCompile || stage == AtLoad;
}

// Seconds on a clock that all processes share.
static double sharedSeconds(void) {
    struct timespec now;
    clock_gettime(CLOCK, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// A moment beside the compile service's state, in a file of its own: reads it, after writing a new
// one unless that is 0.
static double sharedMoment(const char *name, double moment) {
    char path[PATH_MAX], text[64] = "";
    snprintf(path, sizeof path, "%s.%s", settings.daemon, name);
    int file = open(path, O_CLOEXEC | (moment ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY), 0600);
    if (file < 0)
        return 0;
    int length = snprintf(text, sizeof text, "%.6f", moment);
    if (moment ? write(file, text, (size_t)length) < 0 : read(file, text, sizeof text - 1) < 0)
        perror("standin: STANDIN_DAEMON");
    close(file);
    return atof(text);
}

// Until when compiles are refused, as `sharedMoment`.
static double restartMoment(double moment) {
    static double own;
    own = moment ? moment : own;
    return *settings.daemon ? sharedMoment("restart", moment) : own;
}

// The compile service hangs from now on, for all.
static void breakService(void) {
    int file = *settings.daemon ? open(settings.daemon, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file >= 0)
        close(file);
}

// Waits as long as the compile service hangs, or works for another process.
static void waitForService(Stage stage) {
    if (!*settings.daemon || !isOfService(stage))
        return;
    if (!access(settings.daemon, F_OK))
        writeLog("%s waits for ever", stageNames[stage]);
    while (!access(settings.daemon, F_OK) || sharedMoment("busy", 0) > sharedSeconds())
        sleepFor(0.01);
}

static void crash(Stage stage) {
    static int *volatile nowhere;
    if (isOfService(stage))
        breakService();
    *nowhere = 1;
}

static void hangAt(Stage stage) {
    if (!*settings.daemon || !isOfService(stage))
        for (;;)
            pause();
    breakService();
    waitForService(stage);
}

static void slowDown(Stage stage, double seconds) {
    if (*settings.daemon && isOfService(stage))
        sharedMoment("busy", sharedSeconds() + seconds);
    uint64_t before = realClock();
    sleepFor(seconds);
    sleptTicks += (double)(realClock() - before);
    if (settings.clock == VirtualClock)
        moveClock(seconds * ticksPerSecond);
}

static void removeDirectory(NSString *directory) {
    if (directory)
        [[NSFileManager defaultManager] removeItemAtPath:directory error:NULL];
}

// Whether so many seconds since the first call are not over yet; 0 are never over.
static BOOL isBusy(double seconds) {
    static double first;
    first = first ? first : sharedSeconds();
    return !seconds || sharedSeconds() < first + seconds;
}

static Verdict commit(const Item *fault, NSString *directory) {
    Stage stage = (Stage)fault->stage;
    switch ((FaultKind)fault->kind) {
    case AnswerNil: case AnswerNo: case AnswerOnce: return Refuse;
    case AnswerSilently: return RefuseSilently;
    case AnswerInUnicode: return RefuseInUnicode;
    case Busy: return isBusy(fault->first) ? RefuseAsBusy : GoOn;
    case Raise:
        [NSException raise:@"StandInException"
                    format:@"the stand-in was told to raise at %s", stageNames[stage]];
    case Crash: crash(stage); break;
    case ExitAtOnce: _exit(0);
    case Hang: hangAt(stage); break;
    case KillDirectory: removeDirectory(directory); break;
    case WriteRubbish: writeRubbish(); break;
    case Slow: slowDown(stage, fault->first); break;
    case FaultKinds: break;
    }
    return GoOn;
}

// Counts a call of a stage, and does what STANDIN_FAULT says of it.
static Verdict stumble(Stage stage, Variant variant, NSString *directory) {
    static long calls[Stages][Variants];
    long call = ++calls[stage][variant];
    Verdict verdict = GoOn;
    waitForService(stage);
    for (int index = 0; index < settings.faults.count; index++) {
        const Item *fault = &settings.faults.of[index];
        if (fault->stage == (int)stage && isDue(&fault->when, call)
            && isWithin(&fault->scope, variant)) {
            Verdict found = commit(fault, directory);
            verdict = verdict ? verdict : found;
        }
    }
    return verdict;
}

// The same for a stage that answers YES or NO; whether it is to say NO.
static BOOL stumbles(Stage stage, Variant variant, NSString *directory, NSError **error) {
    Verdict verdict = stumble(stage, variant, directory);
    if (verdict == Refuse) {
        const char *reason = reasonFor(stage, variant);
        NSString *words = reason ? [@" " stringByAppendingString:wordsFor(stage, reason)] : @"";
        refuseAt(stage, error, [NSString stringWithFormat:
            @"the stand-in was told to refuse at %s%@", stageNames[stage], words]);
    }
    if (verdict == RefuseInUnicode)
        refuse(error, 8, @"le modèle « x » a été refusé — 失敗 ✗ 𝛑");
    if (verdict == RefuseAsBusy && error)
        *error = errorChain(engineDomain, 54, @"Program load failure (0x5)", @"no ANE resources");
    return verdict != GoOn;
}

// =================================================================================================
// Objective-C runtime: what can be missing here, and what GCC's lacks
// =================================================================================================

static void *realFunction(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        reject("dlsym", name);
    return found;
}

Class standInGetClass(const char *name) EXPORTED("objc_getClass");
Class standInGetClass(const char *name) {
    static Class (*real)(const char *);
    if (isListed(settings.missing, " ", name))
        return Nil;
    real = real ? real : (Class (*)(const char *))realFunction("objc_getClass");
    return real(name);
}

static BOOL isMissing(Class class, SEL selector) {
    Text full;
    static const char attributes[] = "model modelAttributes";
    if (!class || !selector || !settings.missing)
        return NO;
    if (isListed(attributes, " ", sel_getName(selector))
        && isListed(settings.attributes, ";", "none"))
        return YES;
    snprintf(full, sizeof full, "%s.%s", class_getName(class), sel_getName(selector));
    return isListed(settings.missing, " ", sel_getName(selector))
        || isListed(settings.missing, " ", full);
}

typedef Method (*MethodFinder)(Class, SEL);

Method standInInstanceMethod(Class class, SEL selector) EXPORTED("class_getInstanceMethod");
Method standInInstanceMethod(Class class, SEL selector) {
    static MethodFinder real;
    real = real ? real : (MethodFinder)realFunction("class_getInstanceMethod");
    return isMissing(class, selector) ? NULL : real(class, selector);
}

Method standInClassMethod(Class class, SEL selector) EXPORTED("class_getClassMethod");
Method standInClassMethod(Class class, SEL selector) {
    static MethodFinder real;
    real = real ? real : (MethodFinder)realFunction("class_getClassMethod");
    return isMissing(class, selector) ? NULL : real(class, selector);
}

const char *standInTypeEncoding(Method method) EXPORTED("method_getTypeEncoding");
const char *standInTypeEncoding(Method method) {
    static const char *(*real)(Method);
    Text value;
    const char *name = method && settings.encodings ? sel_getName(method_getName(method)) : NULL;
    if (name && valueOf(settings.encodings, " ", name, value))
        return strdup(value);  // a runtime's encodings live for ever
    real = real ? real : (const char *(*)(Method))realFunction("method_getTypeEncoding");
    return real(method);
}

#ifndef __APPLE__

// In GCC's headers this is inline, and no library has it.
Class standInClassOf(id object) EXPORTED("object_getClass");
Class standInClassOf(id object) { return object ? object_getClass(object) : Nil; }

id standInRetain(id object) EXPORTED("objc_retain");
id standInRetain(id object) { return [object retain]; }

void standInRelease(id object) EXPORTED("objc_release");
void standInRelease(id object) { [object release]; }

void *standInPushPool(void) EXPORTED("objc_autoreleasePoolPush");
void *standInPushPool(void) { return [[NSAutoreleasePool alloc] init]; }

// A pool that is released takes those above it along.
void standInPopPool(void *pool) EXPORTED("objc_autoreleasePoolPop");
void standInPopPool(void *pool) { [(NSAutoreleasePool *)pool release]; }

// Core Foundation objects are Objective-C objects here.
void standInCFRelease(const void *object) EXPORTED("CFRelease");
void standInCFRelease(const void *object) { [(id)object release]; }

// GNUstep's own makes a directory for the user, and complains about its owner.
NSString *standInTemporaryDirectory(void) EXPORTED("NSTemporaryDirectory");
NSString *standInTemporaryDirectory(void) {
    const char *path =
        settings.temporary && *settings.temporary ? settings.temporary : getenv("TMPDIR");
    path = path && *path ? path : "/tmp";
    return [NSString stringWithFormat:@"%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/"];
}

// objc_msgSend: finds the method and jumps there with every argument register as it was. The stack
// is left as it is, so that arguments on it are where the method looks for them. nil answers 0.
#if defined(__x86_64__)
__asm__(".text\n .p2align 4\n .globl objc_msgSend\n .type objc_msgSend, @function\n"
        "objc_msgSend:\n .cfi_startproc\n endbr64\n testq %rdi, %rdi\n je 1f\n"
        " pushq %rbp\n .cfi_def_cfa_offset 16\n .cfi_offset %rbp, -16\n movq %rsp, %rbp\n"
        " .cfi_def_cfa_register %rbp\n"
        " subq $192, %rsp\n"
        " movq %rdi, 0(%rsp)\n movq %rsi, 8(%rsp)\n movq %rdx, 16(%rsp)\n movq %rcx, 24(%rsp)\n"
        " movq %r8, 32(%rsp)\n movq %r9, 40(%rsp)\n movq %rax, 48(%rsp)\n"
        " movaps %xmm0, 64(%rsp)\n movaps %xmm1, 80(%rsp)\n movaps %xmm2, 96(%rsp)\n"
        " movaps %xmm3, 112(%rsp)\n"
        " movaps %xmm4, 128(%rsp)\n movaps %xmm5, 144(%rsp)\n movaps %xmm6, 160(%rsp)\n"
        " movaps %xmm7, 176(%rsp)\n"
        " call objc_msg_lookup@PLT\n movq %rax, %r11\n"
        " movq 0(%rsp), %rdi\n movq 8(%rsp), %rsi\n movq 16(%rsp), %rdx\n movq 24(%rsp), %rcx\n"
        " movq 32(%rsp), %r8\n movq 40(%rsp), %r9\n movq 48(%rsp), %rax\n"
        " movaps 64(%rsp), %xmm0\n movaps 80(%rsp), %xmm1\n movaps 96(%rsp), %xmm2\n"
        " movaps 112(%rsp), %xmm3\n"
        " movaps 128(%rsp), %xmm4\n movaps 144(%rsp), %xmm5\n movaps 160(%rsp), %xmm6\n"
        " movaps 176(%rsp), %xmm7\n"
        " leave\n .cfi_remember_state\n .cfi_def_cfa %rsp, 8\n jmp *%r11\n .cfi_restore_state\n"
        "1: .cfi_def_cfa %rsp, 8\n xorl %eax, %eax\n xorl %edx, %edx\n xorps %xmm0, %xmm0\n"
        " xorps %xmm1, %xmm1\n ret\n"
        " .cfi_endproc\n .size objc_msgSend, .-objc_msgSend\n");
#elif defined(__aarch64__)
__asm__(".text\n .p2align 4\n .globl objc_msgSend\n .type objc_msgSend, %function\n"
        "objc_msgSend:\n .cfi_startproc\n hint #34\n cbz x0, 1f\n"
        " stp x29, x30, [sp, #-224]!\n .cfi_def_cfa_offset 224\n .cfi_offset 29, -224\n"
        " .cfi_offset 30, -216\n"
        " mov x29, sp\n stp x0, x1, [sp, #16]\n stp x2, x3, [sp, #32]\n stp x4, x5, [sp, #48]\n"
        " stp x6, x7, [sp, #64]\n str x8, [sp, #80]\n"
        " stp q0, q1, [sp, #96]\n stp q2, q3, [sp, #128]\n stp q4, q5, [sp, #160]\n"
        " stp q6, q7, [sp, #192]\n"
        " bl objc_msg_lookup\n mov x16, x0\n"
        " ldp x0, x1, [sp, #16]\n ldp x2, x3, [sp, #32]\n ldp x4, x5, [sp, #48]\n"
        " ldp x6, x7, [sp, #64]\n ldr x8, [sp, #80]\n"
        " ldp q0, q1, [sp, #96]\n ldp q2, q3, [sp, #128]\n ldp q4, q5, [sp, #160]\n"
        " ldp q6, q7, [sp, #192]\n"
        " ldp x29, x30, [sp], #224\n .cfi_def_cfa_offset 0\n .cfi_restore 29\n .cfi_restore 30\n"
        " br x16\n"
        "1: mov x1, xzr\n movi d0, #0\n movi d1, #0\n movi d2, #0\n movi d3, #0\n ret\n"
        " .cfi_endproc\n .size objc_msgSend, .-objc_msgSend\n");
#else
#error objc_msgSend is written for x86-64 and aarch64
#endif

#endif  // not __APPLE__

// =================================================================================================
// MIL text: a chain of convolutions (1x1, or 3x3 with a padding of 1), quantize and dequantize, as
// steps
// =================================================================================================

typedef struct { const char *at; size_t length; } Span;
typedef struct { Span key, value; } Pair;
static const Span none = {"", 0};
typedef struct {
    Span type, name, operation;
    Pair pairs[16];  // attributes after arguments
    int arguments, count;
} Statement;

typedef struct {
    BOOL int8;
    long rows, columns, kernel;
    int zero;
    uint64_t record;
    const uint8_t *data;
    double scale;
} Weights;
typedef enum { Convolve, Quantize, Dequantize } StepKind;
typedef struct { StepKind kind; Weights weights; double scale; } Step;
typedef struct {
    long channels, outputs, height, width, pixels;
    int opset, count, layers;
    double operations;  // multiplications and additions of one evaluate
    Span input, output;  // their names, within the text
    BOOL isVersion10, conforming, original;
    Step *steps;
} Program;

typedef struct { Span literal; Weights weights; } Symbol;  // a literal, or weights with rows

typedef struct {
    const char *at, *end;
    const char *wrong;  // why the text cannot be read, once it cannot
    Program *program;
    NSMutableDictionary *symbols;
    int height, width;
    Span current;  // the chain's last activation
    BOOL isInt8;
    int channels;
    NSData *blob;
    const char *path;  // as BLOBFILE should name it
} Reader;

static BOOL complain(Reader *reader, const char *why) {
    reader->wrong = reader->wrong ? reader->wrong : why;
    return NO;
}

static BOOL isText(Span span, const char *text) {
    return span.length == strlen(text) && !memcmp(span.at, text, span.length);
}

static BOOL isSame(Span one, Span other) {
    return one.length == other.length && !memcmp(one.at, other.at, one.length);
}

static BOOL isWordCharacter(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '.';
}

static void skipSpace(Reader *reader) {
    while (reader->at < reader->end && *reader->at && strchr(" \n\t\r", *reader->at))
        reader->at++;
}

// Reads a text; a blank in it is any white space or none.
static BOOL takeText(Reader *reader, const char *text) {
    const char *start = reader->at;
    skipSpace(reader);
    for (; *text; text++)
        if (*text == ' ')
            skipSpace(reader);
        else if (reader->at == reader->end || *reader->at++ != *text) {
            reader->at = start;
            return NO;
        }
    return YES;
}

static void expect(Reader *reader, const char *text) {
    if (!takeText(reader, text))
        complain(reader, text);
}

static Span readWord(Reader *reader) {
    skipSpace(reader);
    Span word = {reader->at, 0};
    while (reader->at < reader->end && isWordCharacter(*reader->at))
        reader->at++;
    word.length = (size_t)(reader->at - word.at);
    if (!word.length)
        complain(reader, "a name was expected");
    return word;
}

// All up to a comma or a closing bracket that belongs to what is around; strings are passed over.
static Span readBalanced(Reader *reader) {
    skipSpace(reader);
    Span span = {reader->at, 0};
    int depth = 0;
    for (BOOL quoted = NO; reader->at < reader->end; reader->at++) {
        char c = *reader->at;
        if (c == '"')
            quoted = !quoted;
        else if (quoted)
            continue;
        else if (c == '(' || c == '[' || c == '{' || c == '<')
            depth++;
        else if (!depth && (c == ',' || c == ')' || c == ']' || c == '}' || c == '>'))
            break;
        else if (c == ')' || c == ']' || c == '}' || c == '>')
            depth--;
    }
    span.length = (size_t)(reader->at - span.at);
    if (depth || !span.length)
        complain(reader, "a value was expected");
    return span;
}

static Span readType(Reader *reader) {
    Span type = readWord(reader);
    if (takeText(reader, "<")) {
        do
            readBalanced(reader);
        while (takeText(reader, ","));
        expect(reader, ">");
    }
    type.length = (size_t)(reader->at - type.at);
    return type;
}

static int readInteger(Reader *reader) {
    Span word = readWord(reader);
    int value = 0;
    for (size_t index = 0; index < word.length; index++) {
        if (word.at[index] < '0' || word.at[index] > '9' || value > 99999999)
            complain(reader, "a whole number was expected");
        else
            value = 10 * value + word.at[index] - '0';
    }
    return value;
}

// `tensor<ELEMENT, [A, B, C, D]>`, read on the spot.
static void readTensor(Reader *reader, const char *element, int shape[4]) {
    expect(reader, "tensor <");
    if (!isText(readWord(reader), element))
        complain(reader, "a tensor has another element type");
    for (int axis = 0; axis < 4; axis++) {
        expect(reader, axis ? "," : ", [");
        shape[axis] = readInteger(reader);
    }
    expect(reader, "] >");
}

// Applies a reading to a span of the text that was cut out before.
static Reader inside(Reader *reader, Span span) {
    Reader inner = {.at = span.at, .end = span.at + span.length, .program = reader->program};
    return inner;
}

// Between the parentheses of a typed scalar: program(1.0) has the long form alone, program(1.3) the
// short one.
static Span scalarOf(Reader *reader, Span value, const char *type) {
    Text spelled;
    Reader inner = inside(reader, value);
    snprintf(spelled, sizeof spelled, reader->program->isVersion10 ? "tensor<%s, []>" : "%s", type);
    if (!isText(readType(&inner), spelled))
        return complain(reader, "a scalar has another type or spelling"), none;
    expect(&inner, "(");
    Span content = readBalanced(&inner);
    expect(&inner, ")");
    if (inner.wrong)
        complain(reader, inner.wrong);
    return inner.wrong ? none : content;
}

static double numberOf(Reader *reader, Span value, const char *type) {
    char text[64], *end;
    Span span = scalarOf(reader, value, type);
    snprintf(text, sizeof text, "%.*s", (int)span.length, span.at);
    double number = strtod(text, &end);
    if (!*text || *end)
        complain(reader, "a number was expected");
    return number;
}

static BOOL isString(Reader *reader, Span value, const char *text) {
    Span span = scalarOf(reader, value, "string");
    return span.length == strlen(text) + 2 && !memcmp(span.at + 1, text, span.length - 2);
}

static void readPairs(Reader *reader, Statement *statement, const char *closing) {
    if (takeText(reader, closing))
        return;
    do {
        if (statement->count == 16) {
            complain(reader, "too many arguments");
            return;
        }
        Pair *pair = &statement->pairs[statement->count++];
        pair->key = readWord(reader);
        expect(reader, "=");
        pair->value = readBalanced(reader);
    } while (!reader->wrong && takeText(reader, ","));
    expect(reader, closing);
}

static void readStatement(Reader *reader, Statement *statement) {
    statement->count = 0;
    statement->type = readType(reader);
    statement->name = readWord(reader);
    expect(reader, "=");
    statement->operation = readWord(reader);
    expect(reader, "(");
    readPairs(reader, statement, ")");
    statement->arguments = statement->count;
    if (takeText(reader, "["))
        readPairs(reader, statement, "]");
    expect(reader, ";");
}

static Span find(Reader *reader, const Statement *statement, int from, int to, const char *key) {
    for (int index = from; index < to; index++)
        if (isText(statement->pairs[index].key, key))
            return statement->pairs[index].value;
    complain(reader, key);
    return none;
}

static Span argument(Reader *reader, const Statement *statement, const char *key) {
    return find(reader, statement, 0, statement->arguments, key);
}

static Span attribute(Reader *reader, const Statement *statement, const char *key) {
    return find(reader, statement, statement->arguments, statement->count, key);
}

static NSString *stringOf(Span span) {
    return [NSString stringWithFormat:@"%.*s", (int)span.length, span.at];
}

// The constant of that name; NULL, and a complaint, where there is none.
static const Symbol *constant(Reader *reader, Span name) {
    NSData *found = [reader->symbols objectForKey:stringOf(name)];
    if (!found)
        complain(reader, "a constant is not defined");
    return [found bytes];
}

static void define(Reader *reader, Span name, Symbol symbol) {
    [reader->symbols setObject:[NSData dataWithBytes:&symbol length:sizeof symbol]
                        forKey:stringOf(name)];
}

static Span literalOf(Reader *reader, const Statement *statement, const char *key) {
    const Symbol *symbol = constant(reader, argument(reader, statement, key));
    return symbol && !symbol->weights.rows ? symbol->literal : none;
}

static long countOf(const Weights *weights) {
    return weights->rows * weights->columns * weights->kernel * weights->kernel;
}

// Finds the data of a record as the real reader does: version, sentinel, type, and the data within
// the file. A data offset of 0, as the original writes it, means that the data follow.
static void findWeights(Reader *reader, Weights *weights) {
    struct { uint32_t sentinel, type; uint64_t size, data; } record;
    const uint8_t *bytes = [reader->blob bytes];
    uint64_t length = [reader->blob length], size = countOf(weights) * (weights->int8 ? 1 : 2);
    if (length < 128 || weights->record > length - 64 || ((const uint32_t *)bytes)[1] != 2) {
        complain(reader, "the weight file has no such record");
        return;
    }
    memcpy(&record, bytes + weights->record, sizeof record);
    if (record.sentinel != 0xDEADBEEF || (record.type != 1 && (record.type != 4 || !weights->int8)))
        complain(reader, "a weight record has another sentinel or type");
    uint64_t start = record.data ? record.data : weights->record + 64;
    if (size > length || start > length - size || (record.data && record.size != size))
        complain(reader, "a weight record has another size, or leaves the file");
    reader->program->conforming |= record.data != 0;
    reader->program->original |= record.data == 0;
    weights->data = bytes + start;
}

// `tensor<ELEMENT, [O, I, K, K]>(BLOBFILE(path = …, offset = …))`.
static Weights readWeights(Reader *reader, Span value, const char *element) {
    Reader inner = inside(reader, value);
    Statement statement = {.count = 0};
    int shape[4] = {0};
    readTensor(&inner, element, shape);
    expect(&inner, "( BLOBFILE (");
    readPairs(&inner, &statement, ")");
    expect(&inner, ")");
    statement.arguments = statement.count;
    Weights weights = {.int8 = !strcmp(element, "int8"), .rows = shape[0], .columns = shape[1],
        .kernel = shape[2], .scale = 1};
    if (inner.wrong || !shape[0] || !shape[1] || (shape[2] != 1 && shape[2] != 3)
        || shape[3] != shape[2] || inner.at != inner.end)
        return complain(reader, inner.wrong ? inner.wrong : "weights of another shape"), weights;
    if (!isString(reader, argument(reader, &statement, "path"), reader->path))
        complain(reader, "BLOBFILE names another file");
    weights.record = (uint64_t)numberOf(reader, argument(reader, &statement, "offset"), "uint64");
    if (!reader->wrong)
        findWeights(reader, &weights);
    return weights;
}

static BOOL checkOpset(Reader *reader, int least) {
    return reader->program->opset >= least || complain(reader, "an operation needs a later opset");
}

// Its type is spelled as its value's is.
static void readConstant(Reader *reader, const Statement *statement) {
    Symbol symbol = {.literal = attribute(reader, statement, "val")};
    Reader value = inside(reader, symbol.literal);
    if (!isSame(readType(&value), statement->type))
        complain(reader, "a constant and its value have other types");
    if (memmem(symbol.literal.at, symbol.literal.length, "BLOBFILE", 8))
        symbol.weights = readWeights(reader, symbol.literal, "fp16");
    define(reader, statement->name, symbol);
}

// Its parameters are attributes: as arguments the compiler does not take them.
static void readAffine(Reader *reader, const Statement *statement) {
    Symbol symbol = {
        .weights = readWeights(reader, attribute(reader, statement, "quantized_data"), "int8")};
    symbol.weights.scale = numberOf(reader, attribute(reader, statement, "scale"), "fp16");
    symbol.weights.zero = (int)numberOf(reader, attribute(reader, statement, "zero_point"), "int8");
    numberOf(reader, attribute(reader, statement, "axis"), "int32");
    checkOpset(reader, 16);
    define(reader, statement->name, symbol);
}

// Whether a literal is a list of `count` times the same number.
static BOOL isList(Reader *reader, Span literal, int number, int count) {
    Reader inner = inside(reader, literal);
    readType(&inner);
    expect(&inner, "( [");
    for (int index = 0; index < count; index++)
        if ((index && !takeText(&inner, ",")) || readInteger(&inner) != number)
            return NO;
    expect(&inner, "]");
    return !inner.wrong;
}

// An operation on the chain's last activation becomes a step, and its result the last activation.
static void addStep(
    Reader *reader, const Statement *statement, const char *input, Step step, BOOL givesInt8) {
    Program *program = reader->program;
    Reader type = inside(reader, statement->type);
    int shape[4] = {0};
    readTensor(&type, givesInt8 ? "int8" : "fp16", shape);
    if (!isSame(argument(reader, statement, input), reader->current)
        || reader->isInt8 != (step.kind == Dequantize))
        complain(reader, "the program is not a chain");
    if (type.wrong || shape[0] != 1 || shape[1] != reader->channels || shape[2] != reader->height
        || shape[3] != reader->width)
        complain(reader, "a result has another type");
    program->steps = realloc(program->steps, (program->count + 1) * sizeof step);
    program->steps[program->count++] = step;
    reader->current = statement->name;
    reader->isInt8 = givesInt8;
}

static void readConvolution(Reader *reader, const Statement *statement) {
    const Symbol *symbol = constant(reader, argument(reader, statement, "weight"));
    Step step = {.kind = Convolve};
    if (!symbol || !symbol->weights.rows || symbol->weights.columns != reader->channels) {
        complain(reader, "weights and input of a convolution do not fit");
        return;
    }
    BOOL padded = symbol->weights.kernel == 3;
    if (!isList(reader, literalOf(reader, statement, "strides"), 1, 2)
        || !isList(reader, literalOf(reader, statement, "dilations"), 1, 2)
        || !isList(reader, literalOf(reader, statement, "pad"), padded ? 1 : 0, 4)
        || numberOf(reader, literalOf(reader, statement, "groups"), "int32") != 1
        || !isString(reader, literalOf(reader, statement, "pad_type"), padded ? "custom" : "valid"))
        complain(reader, "a convolution is of another kind");
    step.weights = symbol->weights;
    reader->channels = step.weights.rows;
    reader->program->layers++;
    reader->program->operations += 2.0 * countOf(&step.weights) * reader->program->pixels;
    addStep(reader, statement, "x", step, NO);
}

static void readQuantization(Reader *reader, const Statement *statement, StepKind kind) {
    Step step = {
        .kind = kind, .scale = numberOf(reader, literalOf(reader, statement, "scale"), "fp16")};
    BOOL gives = kind == Quantize;
    if (gives && !isString(reader, literalOf(reader, statement, "output_dtype"), "int8"))
        complain(reader, "quantize to another type");
    if (statement->arguments != (gives ? 3 : 2) || !(step.scale > 0))
        complain(reader, "quantize or dequantize of another kind");
    checkOpset(reader, 17);
    addStep(reader, statement, "input", step, gives);
}

static void readOperation(Reader *reader) {
    Statement statement;
    readStatement(reader, &statement);
    scalarOf(reader, attribute(reader, &statement, "name"), "string");
    if (reader->wrong)
        return;
    if (isText(statement.operation, "const"))
        readConstant(reader, &statement);
    else if (isText(statement.operation, "constexpr_affine_dequantize"))
        readAffine(reader, &statement);
    else if (isText(statement.operation, "conv"))
        readConvolution(reader, &statement);
    else if (isText(statement.operation, "quantize"))
        readQuantization(reader, &statement, Quantize);
    else if (isText(statement.operation, "dequantize"))
        readQuantization(reader, &statement, Dequantize);
    else
        complain(reader, "an operation that is not known here");
}

// `program(1.3) [buildInfo = …] { func main<ios18>(tensor<fp16, [1, C, H, W]> x) {`
static void readHead(Reader *reader) {
    Statement build = {.count = 0};
    int shape[4] = {0};
    Program *program = reader->program;
    expect(reader, "program(");
    Span version = readWord(reader);
    program->isVersion10 = isText(version, "1.0");
    if (!program->isVersion10 && !isText(version, "1.3"))
        complain(reader, "a version that is not known here");
    expect(reader, ")");
    if (takeText(reader, "["))
        readPairs(reader, &build, "]");
    expect(reader, "{ func main <ios");
    program->opset = readInteger(reader);
    expect(reader, "> (");
    readTensor(reader, "fp16", shape);
    program->input = reader->current = readWord(reader);
    expect(reader, ") {");
    program->channels = reader->channels = shape[1];
    program->height = reader->height = shape[2];
    program->width = reader->width = shape[3];
    program->pixels = shape[2] * shape[3];
    if (shape[0] != 1 || !shape[1] || !program->pixels)
        complain(reader, "an input of another shape");
    checkOpset(reader, 15);
}

// Reads a text into a program, whose steps are then the caller's. Returns why it cannot be, or
// NULL.
static const char *readProgram(NSData *text, NSData *blob, const char *path, Program *program) {
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    const char *start = [text bytes];
    Reader state = {.at = start, .end = start + [text length], .program = program, .blob = blob,
        .path = path, .symbols = [NSMutableDictionary dictionary]};
    Reader *reader = &state;
    readHead(reader);
    while (!reader->wrong && !takeText(reader, "}"))
        readOperation(reader);
    expect(reader, "-> (");
    if (!reader->wrong && !isSame(readWord(reader), reader->current))
        complain(reader, "the output is not the chain's end");
    expect(reader, ") ; }");
    skipSpace(reader);
    if (reader->at != reader->end)
        complain(reader, "text after the program");
    if (reader->isInt8 || !program->count)
        complain(reader, "the output is not a result in fp16");
    program->outputs = reader->channels;
    program->output = reader->current;
    [pool drain];
    return reader->wrong;
}

// =================================================================================================
// Arithmetic: sums, stores, quantization, right or wrong
// =================================================================================================

// Pixels are computed this many at a time, side by side, with the widest vectors that the processor
// has.
enum { Lanes = 8 };
typedef double Vector __attribute__((vector_size(64)));
typedef int64_t Bits __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(32)));
#if defined(__x86_64__) && defined(__linux__)
#define ANY_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ANY_WIDTH
#endif

// What is wrong with an evaluate: for each kind the item of STANDIN_OUTPUT, or NULL.
typedef struct { const Item *of[OutputKinds]; } Wrongs;

static float halves[1 << 16];  // the value of each fp16

static void fillHalves(void) {
    if (halves[1])
        return;
    for (int bits = 0; bits < 1 << 16; bits++) {
        int exponent = bits >> 10 & 31, fraction = bits & 1023;
        double size = exponent == 31 ? (fraction ? NAN : INFINITY)
            : exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        halves[bits] = (float)(bits >> 15 ? -size : size);
    }
}

// The fp16 nearest to a double, rounded once, ties to even or away from zero; what is too large is
// infinite.
static uint16_t halfOf(double value, BOOL away) {
    union { double number; uint64_t bits; } size = {.number = fabs(value)}, power;
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (!(size.number < 65520))
        return sign | (size.number >= 65520 ? 0x7c00 : 0x7e00);
    int exponent = (int)(size.bits >> 52) - 1022;  // of a fraction from 1/2 to 1
    exponent = exponent < -13 ? -13 : exponent;  // below lie the subnormals, all of one step
    power.bits = (uint64_t)(1023 + 11 - exponent) << 52;
    double steps = size.number * power.number;
    int whole = (int)steps;
    double rest = steps - whole;
    whole += rest > 0.5 || (rest == 0.5 && (away || whole % 2));
    return sign | (uint16_t)(((exponent + 13) << 10) + whole);
}

// The result of a convolution as it is stored; the last one's always ends as fp16.
static double stored(double value, BOOL isLast) {
    return settings.storeFloat && !isLast ? (double)(float)value
                                          : (double)halves[halfOf(value, settings.storeAway)];
}

static double quantized(double value, double scale) {
    double steps = settings.quantizeAway ? round(value / scale) : nearbyint(value / scale);
    return steps < -128 ? -128 : steps > 127 ? 127 : steps;
}

// The weights as numbers; those in int8 without their scale if `asIntegers`.
static void decodeWeights(const Weights *weights, BOOL asIntegers, double *decoded) {
    long count = countOf(weights);
    if (!weights->int8) {
        for (long index = 0; index < count; index++) {
            uint16_t bits;
            memcpy(&bits, weights->data + 2 * index, 2);
            decoded[index] = halves[bits];
        }
        return;
    }
    double levels[256];
    for (int level = 0; level < 256; level++) {
        double steps = (int8_t)level - weights->zero;
        levels[level] = asIntegers ? steps : (double)halves[halfOf(weights->scale * steps, NO)];
    }
    for (long index = 0; index < count; index++)
        decoded[index] = levels[weights->data[index]];
}

// One row of weights times Lanes pixels, exactly.
ANY_WIDTH static void multiplyAll(
    const double *row, long columns, const double *input, double *output) {
    const Vector *pixels = (const Vector *)(const void *)input;
    Vector sums = {0};
    for (long column = 0; column < columns; column++)
        sums += row[column] * pixels[column];
    memcpy(output, &sums, sizeof sums);
}

// As an M4 does, by the definition: a product is dropped if the exponents add up to -17 or less,
// else rounded to a multiple of 2^-16, halves away from zero; the sum is exact, and infinite for
// good once it reaches 32768. NaN is read as a large number.
static double sumAsM4(const double *row, long columns, const double *input, int lane) {
    int64_t sum = 0;
    for (long column = 0; column < columns; column++) {
        double weight = row[column], pixel = input[column * Lanes + lane], product;
        weight = isnan(weight) ? INFINITY : weight;
        pixel = isnan(pixel) ? INFINITY : pixel;
        if (weight == 0 || pixel == 0)
            continue;
        product = weight * pixel;
        if (fabs(product) >= 32768)
            return copysign(INFINITY, product);
        if (ilogb(weight) + ilogb(pixel) <= -17)
            continue;
        sum += (int64_t)round(product * 65536);
        if (llabs(sum) >= 1ll << 31)
            return copysign(INFINITY, (double)sum);
    }
    return (double)sum / 65536;
}

// The same for Lanes pixels, side by side where no sum can come near 32768.
ANY_WIDTH static void multiplyM4(
    const double *row, long columns, const double *input, double *output) {
    const Vector *pixels = (const Vector *)(const void *)input;
    const Bits signs = (Bits){0} + INT64_MIN, half = (Bits)((Vector){0} + 0.5);
    Vector sums = {0}, sizes = {0};
    for (long column = 0; column < columns; column++) {
        union { double number; uint64_t bits; } weight = {.number = row[column]}, least;
        // 2 to the power of -16 less the weight's exponent: a smaller pixel's product is dropped.
        least.bits = (2 * 1023 - 16 - (weight.bits >> 52 & 2047)) << 52;
        Vector product = weight.number * 65536 * pixels[column];
        Vector shifted = product + (Vector)(half | ((Bits)product & signs));
        Vector rounded =
            __builtin_convertvector(__builtin_convertvector(shifted, Integers), Vector);
        Bits kept = (Vector)((Bits)pixels[column] & ~signs) >= least.number;
        sums += (Vector)((Bits)rounded & kept);
        sizes += (Vector)((Bits)product & ~signs);
    }
    memcpy(output, &sums, sizeof sums);
    for (int lane = 0; lane < Lanes; lane++)
        if (sizes[lane] < 0x1p30)  // false for NaN, too
            output[lane] /= 65536;
        else
            output[lane] = sumAsM4(row, columns, input, lane);
}

typedef void (*Multiplier)(const double *row, long columns, const double *input, double *output);

// What a computation needs, zeroed and aligned for vectors, until the pool drains.
static void *allocate(size_t size) {
    uintptr_t start = (uintptr_t)[[NSMutableData dataWithLength:size + 64] mutableBytes];
    return (void *)((start + 63) & ~(uintptr_t)63);
}

// Pixels to compute: `count` of them, the last block's lanes filled up with the last one, and the
// place of each in the list.
typedef struct { long count, *pixels, *places; } Chosen;

// A program that is being computed. A block of activations is [channel][lane]; blocks lie `stride`
// apart. `chosen[layer]` are the pixels of each layer's input, the last of all those of the output.
typedef struct {
    const Program *program;
    const Wrongs *wrongs;
    const Weights **convolutions;
    Chosen *chosen;
    int layers, layer;
    long channels, stride;  // channels so far
    double *values, *spare, *decoded, *patch;
    double scale;  // of values that are still integers after dequantize, or 0
} Computation;

// Which layer's weights a layer has, if it has not its own.
static int sourceOf(const Computation *at) {
    const Item *swapped = at->wrongs->of[Swapped];
    int layer = at->layer, layers = at->layers;
    if (at->wrongs->of[Aliased])
        return 0;
    int first = swapped && swapped->numbers ? (int)swapped->first : (layers - 1) / 2;
    int second = swapped && swapped->numbers > 1 ? (int)swapped->second : first + 1;
    if (swapped && layers > 1 && first < layers && second < layers)
        return layer == first ? second : layer == second ? first : layer;
    return layer;
}

// Whether a wrong is one of this layer: its second number says of which, by default the middle one.
static BOOL isOfLayer(const Item *wrong, const Computation *at) {
    return wrong && at->layer == (wrong->numbers > 1 ? (int)wrong->second : at->layers / 2);
}

// Exchanges rows and columns of each 3x3 kernel.
static void transposeKernels(double *decoded, long count) {
    for (double *kernel = decoded; kernel < decoded + count; kernel += 9)
        for (int row = 0; row < 3; row++)
            for (int column = 0; column < row; column++) {
                double other = kernel[3 * row + column];
                kernel[3 * row + column] = kernel[3 * column + row];
                kernel[3 * column + row] = other;
            }
}

// The weights of the layer that is next, with what STANDIN_OUTPUT does to them.
static void decodeLayer(Computation *at, BOOL asIntegers) {
    const Weights *own = at->convolutions[at->layer], *other = at->convolutions[sourceOf(at)];
    const Item *scaled = at->wrongs->of[Scaled], *dropped = at->wrongs->of[Dropped];
    const Item *transposed = at->wrongs->of[Transposed];
    long count = countOf(own), taps = own->kernel * own->kernel;
    decodeWeights(countOf(other) == count && other->rows == own->rows ? other : own, asIntegers,
                  at->decoded);
    for (long index = 0; index < count && isOfLayer(scaled, at); index++)
        at->decoded[index] *= scaled->first;
    for (long index = 0; index < count && isOfLayer(dropped, at); index++)
        if (index / taps % own->columns == (long)dropped->first)
            at->decoded[index] = 0;
    if (transposed && taps == 9 && (!transposed->numbers || at->layer == (int)transposed->first))
        transposeKernels(at->decoded, count);
}

static Chosen choose(const Program *program, const BOOL *wanted) {
    Chosen chosen = {.pixels = allocate((program->pixels + Lanes) * sizeof(long)),
                     .places = allocate(program->pixels * sizeof(long))};
    for (long pixel = 0; pixel < program->pixels; pixel++) {
        chosen.places[pixel] = wanted[pixel] ? chosen.count : -1;
        if (wanted[pixel])
            chosen.pixels[chosen.count++] = pixel;
    }
    for (; chosen.count % Lanes; chosen.count++)
        chosen.pixels[chosen.count] = chosen.pixels[chosen.count - 1];
    return chosen;
}

// The pixel a number of rows and columns away: -1 beyond the border, or the nearest inside if
// borders are replicated.
static long neighbour(const Program *program, long pixel, int tap, const Wrongs *wrongs) {
    long height = program->height, width = program->width;
    long row = pixel / width + tap / 3 - 1, column = pixel % width + tap % 3 - 1;
    if (wrongs->of[Replicated]) {
        row = row < 0 ? 0 : row >= height ? height - 1 : row;
        column = column < 0 ? 0 : column >= width ? width - 1 : column;
    }
    return row >= 0 && row < height && column >= 0 && column < width ? row * width + column : -1;
}

// Which pixels each convolution needs, from the last one's backwards.
static void chooseAll(Computation *at, BOOL *wanted) {
    at->chosen[at->layers] = choose(at->program, wanted);
    for (int layer = at->layers - 1; layer >= 0; layer--) {
        const Chosen *after = &at->chosen[layer + 1];
        long taps = at->convolutions[layer]->kernel == 3 ? 9 * after->count : 0;
        for (long tap = 0; tap < taps; tap++) {
            long pixel = neighbour(at->program, after->pixels[tap / 9], tap % 9, at->wrongs);
            if (pixel >= 0)
                wanted[pixel] = YES;
        }
        at->chosen[layer] = choose(at->program, wanted);
    }
}

static double *valueAt(const Computation *at, long place, long channel) {
    return at->values + place / Lanes * at->stride + channel * Lanes + place % Lanes;
}

// Collects what a block of pixels of a 3x3 convolution is made of: [channel][tap][lane], zeros
// beyond the border.
static void gather(Computation *at, const long *pixels) {
    for (int tap = 0; tap < 9; tap++)
        for (int lane = 0; lane < Lanes; lane++) {
            long pixel = neighbour(at->program, pixels[lane], tap, at->wrongs);
            const double *source =
                valueAt(at, pixel < 0 ? 0 : at->chosen[at->layer].places[pixel], 0);
            double *target = at->patch + tap * Lanes + lane;
            for (long channel = 0; channel < at->channels; channel++)
                target[channel * 9 * Lanes] = pixel < 0 ? 0 : source[channel * Lanes];
        }
}

static void convolve(Computation *at) {
    const Weights *weights = at->convolutions[at->layer];
    const Chosen *to = &at->chosen[at->layer + 1];
    BOOL isLast = at->layer == at->layers - 1, asIntegers = at->scale != 0;
    long columns = at->channels * weights->kernel * weights->kernel;
    double scale = asIntegers ? at->scale * weights->scale : 1;
    Multiplier multiply = settings.isM4 && !asIntegers ? multiplyM4 : multiplyAll;
    decodeLayer(at, asIntegers);
    for (long block = 0; block < to->count / Lanes; block++) {
        const double *input = at->values + block * at->stride;
        double *result = at->spare + block * at->stride;
        if (weights->kernel == 3) {
            gather(at, to->pixels + block * Lanes);
            input = at->patch;
        }
        for (long row = 0; row < weights->rows; row++, result += Lanes) {
            multiply(at->decoded + row * columns, columns, input, result);
            for (int lane = 0; lane < Lanes; lane++)
                result[lane] = stored(result[lane] * scale, isLast);
        }
    }
    double *results = at->spare;
    at->spare = at->values;
    at->values = results;
    at->channels = weights->rows;
    at->scale = 0;
    at->layer++;
}

static void applyStep(Computation *at, const Step *step) {
    // An M4 multiplies integers by integers.
    if (step->kind == Dequantize && settings.isM4 && at->layer < at->layers
        && at->convolutions[at->layer]->int8) {
        at->scale = step->scale;
        return;
    }
    for (long block = 0; block < at->chosen[at->layer].count / Lanes; block++) {
        double *values = at->values + block * at->stride;
        for (long index = 0; index < at->channels * Lanes; index++)
            values[index] = step->kind == Quantize
                ? quantized(values[index], step->scale)
                : (double)halves[halfOf(step->scale * values[index], settings.storeAway)];
    }
}

static void prepare(Computation *at, const BOOL *wanted) {
    const Program *program = at->program;
    long most = program->channels, mostWeights = 0;
    at->convolutions = allocate(program->count * sizeof *at->convolutions);
    for (int index = 0; index < program->count; index++)
        if (program->steps[index].kind == Convolve) {
            const Weights *weights = &program->steps[index].weights;
            at->convolutions[at->layers++] = weights;
            most = weights->rows > most ? weights->rows : most;
            mostWeights = countOf(weights) > mostWeights ? countOf(weights) : mostWeights;
        }
    at->chosen = allocate((at->layers + 1) * sizeof *at->chosen);
    chooseAll(at, memcpy(allocate(program->pixels), wanted, program->pixels));
    at->stride = most * Lanes;
    size_t size = at->chosen[0].count * most * sizeof(double);
    at->values = allocate(size);
    at->spare = allocate(size);
    at->decoded = allocate(mostWeights * sizeof(double));
    at->patch = allocate(9 * at->stride * sizeof(double));
}

// Computes the wanted pixels of fp16 [outputs][pixels] from fp16 [channels][pixels]; the others
// stay 0.
static void compute(const Program *program, const Wrongs *wrongs, const BOOL *wanted,
                    const uint16_t *input, uint16_t *output) {
    long pixels = program->pixels;
    Computation at = {.program = program, .wrongs = wrongs, .channels = program->channels};
    prepare(&at, wanted);
    for (long place = 0; place < at.chosen[0].count; place++)
        for (long channel = 0; channel < program->channels; channel++)
            *valueAt(&at, place, channel) =
                halves[input[channel * pixels + at.chosen[0].pixels[place]]];
    for (int index = 0; index < program->count; index++)
        if (program->steps[index].kind == Convolve)
            convolve(&at);
        else if (!wrongs->of[Unquantized])
            applyStep(&at, &program->steps[index]);
    const Chosen *last = &at.chosen[at.layers];
    for (long place = 0; place < last->count; place++)
        for (long channel = 0; channel < program->outputs; channel++)
            output[channel * pixels + last->pixels[place]] =
                halfOf(*valueAt(&at, place, channel), settings.storeAway);
}

// The bytes from one row, one channel and one tensor in a surface to the next.
typedef struct { long row, plane, batch; } Strides;

static long multipleOf(long unit, long size) {
    return (size + unit - 1) / unit * unit;
}

static Strides stridesOf(const Program *program, long channels) {
    Strides strides = {.row = multipleOf(settings.row, program->width * 2)};
    strides.plane = multipleOf(settings.plane, strides.row * program->height);
    strides.batch = strides.plane * channels;
    return strides;
}

// Where a row of a surface begins, of all rows of all channels.
static long startOf(const Program *program, long row) {
    Strides strides = stridesOf(program, 1);
    return row / program->height * strides.plane + row % program->height * strides.row;
}

// Takes the pixels out of a surface, [channel][pixel]. What stands in the padding behind a row is
// added to them.
static void pack(const Program *program, const uint8_t *surface, uint16_t *packed) {
    long width = program->width, end = stridesOf(program, 1).row / 2;
    for (long row = 0; row < program->height * program->channels; row++, packed += width) {
        const uint16_t *start = (const void *)(surface + startOf(program, row));
        double padding = 0;
        for (long column = width; column < end; column++)
            padding += halves[start[column]];
        for (long column = 0; column < width; column++)
            packed[column] =
                padding ? halfOf(halves[start[column]] + padding, NO) : start[column];
    }
}

// Puts [channel][pixel] where they lie in a surface, and zeros behind each row.
static void spread(const Program *program, const uint16_t *packed, uint8_t *surface) {
    long width = program->width;
    memset(surface, 0, stridesOf(program, program->outputs).batch);
    for (long row = 0; row < program->height * program->outputs; row++)
        memcpy(surface + startOf(program, row), packed + row * width, 2 * width);
}

// Adds to the wanted pixels those in which a surface differs from what was put there last; whether
// there are any.
static BOOL addOverwritten(const Program *program, const uint8_t *before, const uint8_t *surface,
                           BOOL *wanted) {
    long height = program->height, width = program->width;
    BOOL added = NO;
    for (long row = 0; row < height * program->outputs; row++) {
        const uint16_t *one = (const void *)(before + startOf(program, row));
        const uint16_t *other = (const void *)(surface + startOf(program, row));
        BOOL *places = wanted + row % height * width;
        for (long column = 0; column < width && memcmp(one, other, 2 * width); column++)
            if (one[column] != other[column] && !places[column])
                added = places[column] = YES;
    }
    return added;
}

// What the engine leaves in the output, right or wrong.
static void produce(const Program *program, const Wrongs *wrongs, const BOOL *wanted,
                    const uint8_t *input, uint8_t *output) {
    static const struct { OutputKind kind; uint16_t bits; } everywhere[] = {
        {NaNs, 0x7e00}, {Infinities, 0x7c00}, {Zeros, 0}, {Constant, 0x3800}};
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    long count = program->outputs * program->pixels;
    uint16_t *result = allocate(count * 2),
             *packed = allocate(program->channels * program->pixels * 2);
    BOOL isComputed = memchr(wanted, YES, program->pixels) != NULL;
    fillHalves();
    for (int index = 0; index < 4; index++)
        if (wrongs->of[everywhere[index].kind]) {
            isComputed = NO;
            for (long place = 0; place < count; place++)
                result[place] = everywhere[index].bits;
        }
    if (isComputed) {
        pack(program, input, packed);
        compute(program, wrongs, wanted, packed, result);
    }
    spread(program, result, output);
    [pool drain];
}

// =================================================================================================
// IOSurface
// =================================================================================================

NSString *const kIOSurfaceWidth = @"IOSurfaceWidth";
NSString *const kIOSurfaceHeight = @"IOSurfaceHeight";
NSString *const kIOSurfaceBytesPerElement = @"IOSurfaceBytesPerElement";
NSString *const kIOSurfaceBytesPerRow = @"IOSurfaceBytesPerRow";
NSString *const kIOSurfaceAllocSize = @"IOSurfaceAllocSize";
NSString *const kIOSurfacePixelFormat = @"IOSurfacePixelFormat";

// The stamp tells what the bytes are: a number of its own for each time that they may have been
// written.
@interface StandInIOSurface : StandInObject {
@public
    void *bytes;
    size_t size;
    uint64_t stamp;
}
@end

@implementation StandInIOSurface
- (void)dealloc {
    if (bytes)
        munmap(bytes, size);  // whoever uses them later crashes
    [super dealloc];
}
@end

typedef StandInIOSurface *IOSurfaceRef;
static const uint32_t lockReadOnly = 1;

static uint64_t nextStamp(void) {
    static uint64_t last;
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

IOSurfaceRef IOSurfaceCreate(NSDictionary *properties) {
    enum { Size, Row, Height, Width, Element, Properties };
    NSString *const keys[] = {kIOSurfaceAllocSize, kIOSurfaceBytesPerRow, kIOSurfaceHeight,
        kIOSurfaceWidth, kIOSurfaceBytesPerElement};
    size_t given[Properties];
    for (int index = 0; index < Properties; index++)
        given[index] = (size_t)[[properties objectForKey:keys[index]] unsignedLongLongValue];
    writeLog("IOSurfaceCreate %zu", given[Size]);
    if (stumble(AtSurface, NoVariant, nil) || !given[Size] || !given[Width] || !given[Height]
        || given[Row] > given[Size] / given[Height] || given[Element] > given[Row] / given[Width])
        return NULL;
    void *bytes = mmap(NULL, given[Size], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (bytes == MAP_FAILED)
        return NULL;
    StandInIOSurface *surface = [[StandInIOSurface alloc] init];
    surface->bytes = bytes;
    surface->size = given[Size];
    surface->stamp = nextStamp();
    return surface;
}

static int touch(IOSurfaceRef surface, uint32_t options, uint32_t *seed) {
    if (!(options & lockReadOnly))
        surface->stamp = nextStamp();
    if (seed)
        *seed = (uint32_t)surface->stamp;
    return 0;
}

int IOSurfaceLock(IOSurfaceRef surface, uint32_t options, uint32_t *seed) {
    static const int badArgument = (int)0xe00002c2;  // kIOReturnBadArgument
    writeLog("lock %u", options);
    return stumble(AtLock, NoVariant, nil) ? badArgument : touch(surface, options, seed);
}

int IOSurfaceUnlock(IOSurfaceRef surface, uint32_t options, uint32_t *seed) {
    writeLog("unlock %u", options);
    return touch(surface, options, seed);
}

void *IOSurfaceGetBaseAddress(IOSurfaceRef surface) { return surface->bytes; }

// =================================================================================================
// Compiled programs: contents, files, the cache
// =================================================================================================

static uint64_t hashOf(NSData *data) {
    const uint8_t *at = [data bytes];
    size_t length = [data length];
    uint64_t state = length;
    for (size_t place = 0; place < length; place += sizeof state) {
        uint64_t word = 0;
        memcpy(&word, at + place, length - place < sizeof word ? length - place : sizeof word);
        state = (state ^ word) * 0x9E3779B97F4A7C15u;
        state = state << 31 | state >> 33;
    }
    return state ^ state >> 29;
}

// Whether a file is there and holds these bytes.
static BOOL isInFile(NSData *data, NSString *path) {
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    BOOL same = [[NSData dataWithContentsOfMappedFile:path] isEqualToData:data];
    [pool drain];
    return same;
}

typedef enum { Ask, Remember, Forget } CacheCall;

static void writeVariant(const char *path, Variant variant) {
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || dprintf(file, "%s\n", variantNames[variant]) < 0 || close(file))
        perror("standin: STANDIN_CACHE");
}

// Whether the program of that identifier was compiled before and not purged.
static BOOL useCache(CacheCall call, NSString *identifier, Variant variant) {
    static NSMutableSet *compiled;
    if (*settings.cache) {
        NSString *path = [[NSString stringWithUTF8String:settings.cache]
            stringByAppendingPathComponent:identifier];
        const char *name = [path fileSystemRepresentation];
        if (call == Forget)
            unlink(name);
        if (call == Remember)
            writeVariant(name, variant);
        return !access(name, F_OK);
    }
    compiled = compiled ? compiled : [[NSMutableSet alloc] init];
    if (call == Remember)
        [compiled addObject:identifier];
    if (call == Forget)
        [compiled removeObject:identifier];
    return [compiled containsObject:identifier];
}

// =================================================================================================
// The private classes
// =================================================================================================

@interface _ANEInMemoryModelDescriptor : StandInObject {
@public
    NSData *text;
    NSDictionary *weights;
    id options;
    Variant variant;
}
@end

static Variant variantOf(NSData *text) {
    const char *bytes = [text bytes];
    size_t length = [text length];
    if (memmem(bytes, length, "quantize(input", 14))
        return W8A8;
    return memmem(bytes, length, "constexpr_affine_dequantize", 27) ? W8A16 : FP16;
}

// The shape of a program by its input, its convolutions and the pads, whether it can be read as a
// whole or not.
static void readShape(NSData *data) {
    char head[4096];
    int channels = 0, height = 0, width = 0, depth = 0;
    const char *at = [data bytes], *end = at + [data length];
    snprintf(head, sizeof head, "%.*s",
        (int)([data length] < sizeof head ? [data length] : sizeof head - 1), at);
    const char *input = strstr(head, "(tensor<fp16, [1, ");
    if (input)
        sscanf(input, "(tensor<fp16, [1, %d, %d, %d]>", &channels, &height, &width);
    BOOL padded = memmem(at, [data length], "([1, 1, 1, 1])", 14) != NULL;
    for (; (at = memmem(at, (size_t)(end - at), "= conv(", 7)); at += 7)
        depth++;
    snprintf(currentShape, sizeof currentShape, "%dx%dx%d%s", channels, height, depth,
        padded ? "k3" : "");
}

@implementation _ANEInMemoryModelDescriptor
+ (id)modelWithMILText:(id)text weights:(id)weights optionsPlist:(id)options {
    if (![text isKindOfClass:[NSData class]] || ![weights isKindOfClass:[NSDictionary class]]) {
        writeLog("descriptor refused: %s",
            text && weights ? "an argument is of another class" : "an argument is nil");
        return nil;
    }
    Variant variant = variantOf(text);
    readShape(text);
    writeLog("descriptor %s", variantNames[variant]);
    if (stumble(AtDescriptor, variant, nil))
        return nil;
    _ANEInMemoryModelDescriptor *descriptor = [[[self alloc] init] autorelease];
    descriptor->text = [text retain];
    descriptor->weights = [weights retain];
    descriptor->options = [options retain];
    descriptor->variant = variant;
    return descriptor;
}

- (void)dealloc {
    [text release];
    [weights release];
    [options release];
    [super dealloc];
}
@end

static NSString *weightKey(_ANEInMemoryModelDescriptor *descriptor) {
    return [descriptor->weights count] ? [[descriptor->weights allKeys] objectAtIndex:0] : nil;
}

// What the framework takes for the data: the value of the first key, whichever that is. nil where
// it is no NSData.
static NSData *weightData(_ANEInMemoryModelDescriptor *descriptor) {
    NSString *key = weightKey(descriptor);
    NSDictionary *entry = key ? [descriptor->weights objectForKey:key] : nil;
    if (![entry isKindOfClass:[NSDictionary class]] || ![entry count])
        return nil;
    id data = [entry objectForKey:[[entry allKeys] objectAtIndex:0]];
    return [data isKindOfClass:[NSData class]] ? data : nil;
}

@interface _ANEIOSurfaceObject : StandInObject {
@public
    StandInIOSurface *surface;
}
@end

@implementation _ANEIOSurfaceObject
+ (id)objectWithIOSurface:(struct __IOSurface *)surface {
    writeLog("surfaceobject");
    if (stumble(AtSurfaceObject, NoVariant, nil) || !surface)
        return nil;
    _ANEIOSurfaceObject *object = [[[self alloc] init] autorelease];
    object->surface = [(StandInIOSurface *)surface retain];
    return object;
}

- (void)dealloc {
    [surface release];
    [super dealloc];
}
@end

@interface _ANERequest : StandInObject {
@public
    StandInIOSurface *input, *output;  // nil where there is none, or more than one
    int procedure;
}
@end

// One surface, of index 0.
static StandInIOSurface *onlySurface(NSArray *objects, NSArray *indices) {
    if ([objects count] != 1 || [indices count] != 1 || [[indices objectAtIndex:0] intValue])
        return nil;
    _ANEIOSurfaceObject *object = [objects objectAtIndex:0];
    return [object isKindOfClass:[_ANEIOSurfaceObject class]] ? object->surface : nil;
}

@implementation _ANERequest
+ (id)requestWithInputs:(id)inputs inputIndices:(id)inputIndices outputs:(id)outputs
          outputIndices:(id)outputIndices weightsBuffer:(id)weightsBuffer perfStats:(id)perfStats
         procedureIndex:(id)procedureIndex {
    writeLog("request");
    (void)weightsBuffer;
    (void)perfStats;
    if (stumble(AtRequest, NoVariant, nil))
        return nil;
    _ANERequest *request = [[[self alloc] init] autorelease];
    request->input = [onlySurface(inputs, inputIndices) retain];
    request->output = [onlySurface(outputs, outputIndices) retain];
    request->procedure = [procedureIndex intValue];
    return request;
}

- (void)dealloc {
    [input release];
    [output release];
    [super dealloc];
}
@end

// What a model tells of its surfaces once it is loaded.
@interface _ANEModel : StandInObject {
@public
    NSDictionary *attributes;
}
@end

@implementation _ANEModel
- (id)modelAttributes {
    writeLog("modelAttributes");
    return attributes ? attributes : [NSDictionary dictionary];
}

- (void)dealloc {
    [attributes release];
    [super dealloc];
}
@end

// What STANDIN_ATTRIBUTES makes of a value of the attributes, nil if it is absent.
static id toldAs(NSString *key, id value) {
    Text other;
    if ([value isKindOfClass:[NSNumber class]] && isListed(settings.attributes, ";", "text"))
        value = [value stringValue];
    if (!valueOf(settings.attributes, ";", [key UTF8String], other))
        return value;
    if (!strcmp(other, "[]"))
        return [NSArray array];
    if (other[strspn(other, "0123456789")])
        return [NSString stringWithUTF8String:other];
    return *other ? [NSNumber numberWithUnsignedLongLong:strtoull(other, NULL, 10)] : nil;
}

// The same of all that is in a dictionary, of which `lists` makes an array.
static id told(NSDictionary *dictionary) {
    NSMutableDictionary *found = [NSMutableDictionary dictionary];
    for (NSString *key in dictionary) {
        id value = toldAs(key, [dictionary objectForKey:key]);
        if (value)
            [found setObject:value forKey:key];
    }
    return isListed(settings.attributes, ";", "lists") ? (id)[found allValues] : found;
}

static NSArray *surfaceAttributes(const Program *program, BOOL isOutput) {
    long channels = isOutput ? program->outputs : program->channels;
    NSString *symbol = stringOf(isOutput ? program->output : program->input);
    Strides strides = stridesOf(program, channels);
    NSString *text = [NSString stringWithFormat:
        @"{'Symbol': '%@', 'Name': '%@%s', 'Type': 'Float16', 'Batches': 1, 'Channels': %ld, "
        @"'Depth': 1, 'Height': %ld, 'Width': %ld, 'Interleave': 1, 'PlaneCount': %ld, "
        @"'BatchStride': %ld, 'DepthStride': %ld, 'PlaneStride': %ld, 'RowStride': %ld}",
        symbol, symbol, isOutput ? "@output" : "", channels, program->height, program->width,
        channels, strides.batch, strides.batch, strides.plane, strides.row];
    text = [text stringByReplacingOccurrencesOfString:@"'" withString:@"\""];
    NSData *data = [text dataUsingEncoding:NSUTF8StringEncoding];
    id surface = [NSJSONSerialization JSONObjectWithData:data options:0 error:NULL];
    return [NSArray arrayWithObject:told(surface)];
}

static NSDictionary *attributesOf(const Program *program) {
    NSDictionary *network = [NSDictionary dictionaryWithObjectsAndKeys:
        surfaceAttributes(program, NO), @"LiveInputList",
        surfaceAttributes(program, YES), @"LiveOutputList", nil];
    id list = toldAs(@"NetworkStatusList", [NSArray arrayWithObject:told(network)]);
    list = isListed(settings.attributes, ";", "empty") ? nil : list;
    return [NSDictionary dictionaryWithObjectsAndKeys:list, @"NetworkStatusList", nil];
}

@interface _ANEInMemoryModel : StandInObject {
@public
    _ANEInMemoryModelDescriptor *descriptor;
    NSString *identifier, *directory;
    Program program;
    BOOL isCompiled, isLoaded;
    long place;  // among the programs that were loaded when it was
    _ANEModel *inner;
    uint8_t *result;  // of the last input that was computed, as it lies in a surface
    BOOL *wanted;  // the pixels to compute
    uint64_t inputStamp, resultStamp;
    uint32_t items;  // of STANDIN_OUTPUT, that it was computed with
}
@end

static long loadedPrograms;

static NSString *identifierOf(_ANEInMemoryModel *model) {
    if (!model->identifier) {
        id options = model->descriptor->options;
        model->identifier = [[NSString alloc] initWithFormat:@"%016llx_%016llx_%016llx",
            (unsigned long long)hashOf(model->descriptor->text),
            (unsigned long long)hashOf(weightData(model->descriptor)),
            (unsigned long long)([options isKindOfClass:[NSData class]] ? hashOf(options) : 0)];
    }
    return model->identifier;
}

static NSString *directoryOf(_ANEInMemoryModel *model) {
    if (!model->directory && strcmp(settings.modelPath, "%"))
        model->directory = [[[NSString stringWithUTF8String:settings.modelPath]
            stringByReplacingOccurrencesOfString:@"%" withString:identifierOf(model)] retain];
    if (!model->directory)
        model->directory =
            [[NSTemporaryDirectory() stringByAppendingPathComponent:identifierOf(model)] retain];
    return model->directory;
}

// What may be removed: nil if STANDIN_MODEL_PATH leads elsewhere.
static NSString *ownDirectoryOf(_ANEInMemoryModel *model) {
    return strcmp(settings.modelPath, "%") ? nil : directoryOf(model);
}

// Where a file of the dictionary of weights lies.
static NSString *weightPath(_ANEInMemoryModel *model) {
    static NSString *const root = @"@model_path/";
    NSString *key = weightKey(model->descriptor);
    key = [key hasPrefix:root] ? [key substringFromIndex:[root length]] : key;
    return [directoryOf(model) stringByAppendingPathComponent:key];
}

// Whether STANDIN_REFUSE lists a form of a program.
static BOOL isRefused(const Program *program, Variant variant) {
    enum { Standard, Original, Short, Early, Long };
    int dialect = program->isVersion10 ? Long : program->opset < 18 ? Early : Short;
    for (int index = 0; index < settings.refusals.count; index++) {
        const Item *refusal = &settings.refusals.of[index];
        BOOL applies = refusal->kind == dialect
            || (refusal->kind == Standard && program->conforming)
            || (refusal->kind == Original && program->original);
        if (applies && isWithin(&refusal->scope, variant))
            return YES;
    }
    return NO;
}

// Why a program cannot be compiled, for the log; NULL if it was. What an earlier program left in
// its directory is taken for it.
static const char *compileProgram(_ANEInMemoryModel *model) {
    static const char *const shadows[] = {"net.plist", "data"};
    NSData *text = model->descriptor->text, *blob = weightData(model->descriptor);
    Program program = {.count = 0};
    if (!blob)
        return "the first value of the weights' entry is no NSData";
    for (int index = 0; index < 2; index++)
        if (!access([[directoryOf(model) stringByAppendingFormat:@"/%s", shadows[index]]
                        fileSystemRepresentation],
                F_OK))
            return shadows[index];
    if (!isInFile(text, [directoryOf(model) stringByAppendingPathComponent:@"model.mil"]))
        return "model.mil is missing or another";
    if (!isInFile(blob, weightPath(model)))
        return "the weight file is missing or another";
    const char *wrong =
        readProgram(text, blob, [weightKey(model->descriptor) UTF8String], &program);
    if (!wrong && isRefused(&program, model->descriptor->variant))
        wrong = "STANDIN_REFUSE";
    if (!wrong && program.layers > settings.limits[Layers])
        crash(AtCompile);
    free(wrong ? program.steps : model->program.steps);
    if (!wrong)
        model->program = program;
    return wrong;
}

static BOOL compile(_ANEInMemoryModel *model, id options, NSError **error) {
    _ANEInMemoryModelDescriptor *descriptor = model->descriptor;
    if (stumbles(AtCompile, descriptor->variant, ownDirectoryOf(model), error))
        return NO;
    if (!options)
        return refuse(error, 26, @"options is nil");
    if ([descriptor->options isKindOfClass:[NSData class]] && ![descriptor->options length])
        return refuseBecause(AtCompile, descriptor->variant, error, "InvalidCompilationParam");
    const char *wrong = compileProgram(model);
    if (wrong)
        writeLog("compile %s refused: %s", variantNames[descriptor->variant], wrong);
    return !wrong || refuseBecause(AtCompile, descriptor->variant, error, "InvalidMILProgram");
}

// The items of STANDIN_OUTPUT that apply to an evaluate, one bit each; sets whether it works at
// all.
static uint32_t itemsDue(Variant variant, long call, BOOL *works) {
    uint32_t due = 0;
    BOOL limited = NO, within = NO;
    *works = YES;
    for (int index = 0; index < settings.outputs.count; index++) {
        const Item *item = &settings.outputs.of[index];
        if (!isWithin(&item->scope, variant))
            continue;
        BOOL isNow = isDue(&item->when, call),
             limits = item->kind == Works || item->kind == WorksEach;
        limited |= limits;
        within |= limits && isNow;
        if (item->kind == Noop && isNow)
            *works = NO;
        else if (!limits && isNow)
            due |= 1u << index;
    }
    *works &= !limited || within;
    return due;
}

static Wrongs wrongsOf(uint32_t items) {
    Wrongs wrongs = {{NULL}};
    for (int index = 0; index < settings.outputs.count; index++) {
        const Item *item = &settings.outputs.of[index];
        if (items >> index & 1 && !wrongs.of[item->kind])
            wrongs.of[item->kind] = item;
    }
    return wrongs;
}

// Runs the program: computes if the result may be another than before, and writes if the output is
// another. An evaluate that has nothing new to do costs next to nothing, so that its callers can be
// timed.
static void runProgram(_ANEInMemoryModel *model, StandInIOSurface *from, StandInIOSurface *to) {
    static const double small = 2.0 * (1 << 24);  // operations of a program that is computed wholly
    static long calls[Variants];
    const Program *program = &model->program;
    size_t size = stridesOf(program, program->outputs).batch;
    Variant variant = model->descriptor->variant;
    BOOL works = YES, isWhole = settings.compute == All || program->operations <= small;
    uint32_t items = settings.outputs.count ? itemsDue(variant, ++calls[variant], &works) : 0;
    if (settings.compute == Nothing || !works || model->place > settings.limits[Writing])
        return;
    if (!model->result) {
        model->result = calloc(size, 1);
        model->wanted = memset(malloc(program->pixels), isWhole, program->pixels);
    }
    BOOL others = to->stamp != model->resultStamp
        && addOverwritten(program, model->result, to->bytes, model->wanted);
    if (others || model->inputStamp != from->stamp || model->items != items) {
        Wrongs wrongs = wrongsOf(items);
        produce(program, &wrongs, model->wanted, from->bytes, model->result);
        model->inputStamp = from->stamp;
        model->items = items;
        model->resultStamp = nextStamp();
    }
    if (to->stamp != model->resultStamp) {
        memcpy(to->bytes, model->result, size);
        to->stamp = model->resultStamp;
    }
}

static BOOL evaluate(_ANEInMemoryModel *model, id options, _ANERequest *request, NSError **error) {
    uint64_t started = readClock();
    double slept = sleptTicks;
    Variant variant = model->descriptor->variant;
    const Program *program = &model->program;
    if (stumbles(AtEvaluate, variant, ownDirectoryOf(model), error))
        return NO;
    if (!options)
        return refuse(error, 26, @"options is nil");
    if (!model->isLoaded)
        return refuse(error, 23, @"the program is not loaded");
    if (![request isKindOfClass:[_ANERequest class]])
        return refuse(error, 26, @"the request is not one");
    StandInIOSurface *from = request->input, *to = request->output;
    if (!from || !to || model->place > settings.limits[Working])
        return refuseBecause(AtEvaluate, variant, error, "0x16");
    if (request->procedure)
        return refuseBecause(AtEvaluate, variant, error, "0x2");
    if ((long)from->size < stridesOf(program, program->channels).batch
        || (long)to->size < stridesOf(program, program->outputs).batch)
        return refuseBecause(AtEvaluate, variant, error, "0x1d");
    runProgram(model, from, to);
    spendTime(variant, program->operations, started, sleptTicks - slept);
    return YES;
}

static void setAttributes(_ANEModel *model, NSDictionary *attributes) {
    [model->attributes release];
    model->attributes = [attributes retain];
}

@implementation _ANEInMemoryModel
+ (id)inMemoryModelWithDescriptor:(id)descriptor {
    _ANEInMemoryModelDescriptor *given = descriptor;
    Variant variant = given ? given->variant : NoVariant;
    writeLog("model %s", variantNames[variant]);
    if (stumble(AtModel, variant, nil) || !given)
        return nil;
    _ANEInMemoryModel *model = [[[self alloc] init] autorelease];
    model->descriptor = [given retain];
    model->inner = [[_ANEModel alloc] init];
    return model;
}

- (id)model {
    return isListed(settings.attributes, ";", "outer") ? nil : inner;
}

- (id)modelAttributes {
    if (isListed(settings.attributes, ";", "inner"))
        [NSException raise:NSInvalidArgumentException
                    format:@"-externConstants: unrecognized selector"];
    return [inner modelAttributes];
}

- (id)hexStringIdentifier {
    writeLog("identifier");
    return stumble(AtIdentifier, descriptor->variant, nil) ? nil : identifierOf(self);
}

- (id)localModelPath {
    writeLog("localModelPath");
    return stumble(AtLocalModelPath, descriptor->variant, nil) ? nil : directoryOf(self);
}

- (BOOL)compiledModelExists {
    writeLog("compiledModelExists %s", variantNames[descriptor->variant]);
    return useCache(Ask, identifierOf(self), descriptor->variant);
}

- (void)purgeCompiledModel {
    writeLog("purge");
    if (!stumble(AtPurge, descriptor->variant, ownDirectoryOf(self)))
        useCache(Forget, identifierOf(self), descriptor->variant);
}

- (BOOL)compileWithQoS:(unsigned int)qos options:(id)options error:(NSError **)error {
    Variant variant = descriptor->variant;
    writeLog("compile %s qos=%u", variantNames[variant], qos);
    if (settings.restart > 0 && restartMoment(0) > sharedSeconds()) {
        writeLog("compile %s refused: the service restarts", variantNames[variant]);
        return refuseAt(AtCompile, error, wordsFor(AtCompile, "CompilationFailure"));
    }
    isCompiled = compile(self, options, error);
    if (isCompiled)
        useCache(Remember, identifierOf(self), variant);
    else if (settings.restart > 0)
        restartMoment(sharedSeconds() + settings.restart);
    return isCompiled;
}

- (BOOL)loadWithQoS:(unsigned int)qos options:(id)options error:(NSError **)error {
    writeLog("load %s qos=%u", variantNames[descriptor->variant], qos);
    if (stumbles(AtLoad, descriptor->variant, ownDirectoryOf(self), error))
        return NO;
    if (!options)
        return refuse(error, 26, @"options is nil");
    if (!isCompiled)
        return refuseBecause(AtLoad, descriptor->variant, error, "0x20002");
    if ((long)[weightData(descriptor) length] > settings.limits[Bytes])
        return refuseBecause(AtLoad, descriptor->variant, error, "0x20004");
    if (loadedPrograms >= settings.limits[Resident])
        return refuseBecause(AtLoad, descriptor->variant, error, "0x50004");
    place = isLoaded ? place : ++loadedPrograms;
    isLoaded = YES;
    setAttributes(inner, attributesOf(&program));
    return YES;
}

- (BOOL)evaluateWithQoS:(unsigned int)qos options:(id)options request:(id)request
                  error:(NSError **)error {
    uint64_t started = readClock();
    BOOL done = evaluate(self, options, request, error);
    const char *variant = variantNames[descriptor->variant];
    writeLog("evaluate %s qos=%u -> %s", variant, qos, done ? "YES" : "NO");
    if (settings.gaps >= 0 || settings.rise > 1)
        noteReturn(descriptor->variant, started);
    return done;
}

- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error {
    (void)qos;
    writeLog("unload %s", variantNames[descriptor->variant]);
    if (stumbles(AtUnload, descriptor->variant, ownDirectoryOf(self), error))
        return NO;
    if (!isLoaded)
        return refuse(error, 23, @"the program is not loaded");
    isLoaded = NO;
    inputStamp = 0;
    setAttributes(inner, nil);
    writeGaps();
    loadedPrograms--;
    removeDirectory(ownDirectoryOf(self));
    return YES;
}

- (void)dealloc {
    loadedPrograms -= isLoaded;
    free(program.steps);
    free(result);
    free(wanted);
    [inner release];
    [identifier release];
    [directory release];
    [descriptor release];
    [super dealloc];
}
@end

// =================================================================================================
// The machine: device, sysctl, power, heat
// =================================================================================================

// A value that a list or the defaults have; NO where it is empty.
static BOOL valueFrom(
    const char *list, const char *defaults, const char *separator, const char *name, Text value) {
    return (valueOf(list, separator, name, value) || valueOf(defaults, separator, name, value))
        && *value;
}

static BOOL readDevice(const char *name, Text value) {
    return valueFrom(settings.device, "hasANE=1,isVirtualMachine=0,numANEs=1,numANECores=16,"
        "aneSubType=h16g,aneArchitectureType=h16g", ",", name, value);
}

static unsigned int deviceNumber(const char *name) {
    Text value;
    return readDevice(name, value) ? (unsigned int)atoi(value) : 0;
}

static NSString *deviceString(const char *name) {
    Text value;
    return readDevice(name, value) ? [NSString stringWithUTF8String:value] : nil;
}

@interface _ANEDeviceInfo : NSObject
@end

@implementation _ANEDeviceInfo
+ (BOOL)hasANE { return deviceNumber("hasANE") != 0; }
+ (BOOL)isVirtualMachine { return deviceNumber("isVirtualMachine") != 0; }
+ (unsigned int)numANEs { return deviceNumber("numANEs"); }
+ (unsigned int)numANECores { return deviceNumber("numANECores"); }
+ (id)aneSubType { return deviceString("aneSubType"); }
+ (id)aneArchitectureType { return deviceString("aneArchitectureType"); }
@end

// The value of a name and its size in memory: text with its end, or an integer of 4 or 8 bytes; 0
// where there is none.
static size_t systemValue(const char *name, Text value) {
    static const char texts[] =
        "machdep.cpu.brand_string hw.model kern.osproductversion kern.osversion";
    static const char defaults[] =
        "machdep.cpu.brand_string=Apple M4;hw.model=Mac16,1;kern.osproductversion=26.0;"
        "kern.osversion=25A354;hw.memsize=17179869184;hw.ncpu=10;sysctl.proc_translated=0;"
        "kern.hv_vmm_present=0";
    const char *compatible = getenv("SYSTEM_VERSION_COMPAT");
    if (*settings.compatible && !strcmp(name, "kern.osproductversion")
        && !(compatible && !strcmp(compatible, "0")))
        return (size_t)snprintf(value, sizeof(Text), "%s", settings.compatible) + 1;
    if (!valueFrom(settings.sysctls, defaults, ";", name, value))
        return 0;
    if (isListed(texts, " ", name) || value[strspn(value, "0123456789")])
        return strlen(value) + 1;
    int64_t number = atoll(value);
    memcpy(value, &number, sizeof number);  // little endian: a shorter integer comes first
    return strcmp(name, "hw.memsize") ? 4 : 8;
}

int standInSysctl(const char *, void *, size_t *, void *, size_t) EXPORTED("sysctlbyname");
int standInSysctl(const char *name, void *old, size_t *oldSize, void *new, size_t newSize) {
    Text value;
    size_t size = systemValue(name, value), room = old && oldSize ? *oldSize : size;
    (void)newSize;
    if (!size || new || (old && !oldSize)) {
        errno = !size ? ENOENT : new ? EPERM : EFAULT;
        return -1;
    }
    if (old)
        memcpy(old, value, size < room ? size : room);
    if (oldSize)
        *oldSize = size < room ? size : room;
    errno = size > room ? ENOMEM : errno;
    return size > room ? -1 : 0;
}

StandInObject *IOPSCopyPowerSourcesInfo(void) { return [[StandInObject alloc] init]; }

NSString *IOPSGetProvidingPowerSourceType(StandInObject *sources) {
    (void)sources;
    return *settings.power ? [NSString stringWithUTF8String:settings.power] : nil;
}

@interface NSProcessInfo (StandIn)
@end

@implementation NSProcessInfo (StandIn)
- (NSInteger)thermalState {
    static const char *rest;
    static Text answer;
    rest = rest ? rest : settings.thermal;
    nextItem(&rest, ",", answer);
    return atoi(answer);
}

- (BOOL)isLowPowerModeEnabled { return settings.lowPower; }

- (id)beginActivityWithOptions:(uint64_t)options reason:(NSString *)reason {
    writeLog("beginActivity 0x%llx %s", (unsigned long long)options, [reason UTF8String]);
    return [[[StandInObject alloc] init] autorelease];
}

- (void)endActivity:(id<NSObject>)activity {
    writeLog("endActivity %s", class_getName(object_getClass(activity)));
}
@end
