// What `ane_bench.py --original` does, compiled: the same texts, weights, files and calls, in one
// process, without a report. Linked against the stand-in; tests/bench_overhead.py measures by it.
//
//   baseline                 a run; prints the mean ms per evaluate of each variant
//   baseline --hash          builds all and prints the CRC-32 of each text and weight file
//   baseline --evaluate N    prints the us of one evaluate, the mean of N of a small program

#import <Foundation/Foundation.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct __IOSurface *IOSurfaceRef;
IOSurfaceRef IOSurfaceCreate(NSDictionary *properties);
void CFRelease(const void *object);
uint64_t mach_absolute_time(void);
int mach_timebase_info(uint32_t *fraction);
extern NSString *const kIOSurfaceWidth, *const kIOSurfaceHeight, *const kIOSurfaceBytesPerElement,
    *const kIOSurfaceBytesPerRow, *const kIOSurfaceAllocSize, *const kIOSurfacePixelFormat;

@interface NSObject (NeuralEngine)
+ (id)modelWithMILText:(NSData *)text
               weights:(NSDictionary *)weights
          optionsPlist:(NSData *)options;
+ (id)inMemoryModelWithDescriptor:(id)descriptor;
+ (id)objectWithIOSurface:(IOSurfaceRef)surface;
+ (id)requestWithInputs:(NSArray *)inputs
           inputIndices:(NSArray *)inputIndices
                outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices
          weightsBuffer:(id)weights
              perfStats:(id)statistics
         procedureIndex:(NSNumber *)index;
- (NSString *)hexStringIdentifier;
- (NSString *)localModelPath;
- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)evaluateWithQoS:(unsigned int)qos
                options:(NSDictionary *)options
                request:(id)request
                  error:(NSError **)error;
- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error;
@end

enum { QoS = 0, Warmup = 10, Timed = 50, Levels = 8192, MostChannels = 512, Record = 64 };
typedef struct { int channels, spatial, depth; } Config;
typedef struct { NSData *text, *weights; } Program;
typedef struct {
    id model, request;
    NSString *directory;
    IOSurfaceRef input, output;
} Loaded;

static const Config configs[] = {
    {512, 64, 128}, {512, 64, 64}, {256, 64, 256}, {256, 64, 128}, {384, 64, 128}};
static const char *const variants[] = {"fp16", "w8a8"};

static void need(BOOL done, const char *what) {
    if (done)
        return;
    fprintf(stderr, "baseline: %s failed\n", what);
    exit(1);
}

// =================================================================================================
// Python's random.Random(0).random(): the Mersenne Twister
// =================================================================================================

static uint32_t state[624];
static int place;

static void mixState(uint32_t factor, int first, int steps, int sign) {
    for (int index = first; steps--;) {
        state[index] = (state[index] ^ (state[index - 1] ^ state[index - 1] >> 30) * factor)
            + (uint32_t)(sign * index);
        if (++index == 624) {
            state[0] = state[623];
            index = 1;
        }
    }
}

static void seedGenerator(void) {
    state[0] = 19650218;
    for (int index = 1; index < 624; index++)
        state[index] = 1812433253u * (state[index - 1] ^ state[index - 1] >> 30) + (uint32_t)index;
    mixState(1664525u, 1, 624, 0);
    mixState(1566083941u, 2, 623, -1);
    state[0] = 0x80000000u;
    place = 624;
}

static uint32_t drawWord(void) {
    for (int index = 0; place == 624 && index < 624; index++) {
        uint32_t bits = (state[index] & 0x80000000u) | (state[(index + 1) % 624] & 0x7fffffffu);
        state[index] = state[(index + 397) % 624] ^ bits >> 1 ^ (bits & 1 ? 0x9908b0dfu : 0);
    }
    place %= 624;
    uint32_t word = state[place++];
    word ^= word >> 11;
    word ^= word << 7 & 0x9d2c5680u;
    word ^= word << 15 & 0xefc60000u;
    return word ^ word >> 18;
}

static double draw(void) {
    uint32_t high = drawWord() >> 5, low = drawWord() >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
}

// =================================================================================================
// Programs
// =================================================================================================

// Random levels of the original's ranges; returns how many bytes each takes.
static size_t fillPool(int channels, BOOL int8, void *pool) {
    for (int index = 0; index < Levels + channels; index++)
        if (int8)
            ((int8_t *)pool)[index] = (int8_t)((int)(draw() * 256) - 128);
        else
            ((_Float16 *)pool)[index] =
                (_Float16)(float)(((int)(draw() * 1000) - 500) * (double)0.001f);
    return int8 ? 1 : 2;
}

static size_t strideOf(Config config, BOOL int8) {
    return Record + (size_t)config.channels * (size_t)config.channels * (int8 ? 1 : 2);
}

// Each row begins at a random place of one pool of levels.
static NSData *weightsOf(Config config, BOOL int8) {
    static _Float16 pool[Levels + MostChannels];
    size_t stride = strideOf(config, int8), length = Record + stride * (size_t)config.depth;
    uint8_t *file = calloc(length, 1), *layer = file + Record;
    seedGenerator();
    size_t element = fillPool(config.channels, int8, pool), row = (size_t)config.channels * element;
    memcpy(file, (uint32_t[]){1, 2}, 8);
    for (int index = 0; index < config.depth; index++, layer += stride) {
        memcpy(layer, (uint32_t[]){0xDEADBEEF, 1, int8 ? 0x080000 : 0x100000}, 12);
        for (size_t channel = 0; channel < (size_t)config.channels; channel++)
            memcpy(layer + Record + channel * row,
                (uint8_t *)pool + (size_t)(draw() * Levels) * element, row);
    }
    return [NSData dataWithBytesNoCopy:file length:length freeWhenDone:YES];
}

static void appendHead(NSMutableString *text, NSString *activation, BOOL int8) {
    [text appendFormat:
            @"program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", "
            @"\"3510.2.1\"}, "
            @"{\"coremlc-version\", \"3505.4.1\"}, {\"coremltools-component-milinternal\", \"\"}, "
            @"{\"coremltools-version\", \"9.0\"}})]\n{\n    func main<ios18>(tensor<fp16, %@> x) "
            @"{\n"
            @"        string c_pad_type = const()[name = string(\"c_pad_type\"), val = "
            @"string(\"valid\")];\n"
            @"        tensor<int32, [2]> c_strides = const()[name = string(\"c_strides\"), "
            @"val = tensor<int32, [2]>([1, 1])];\n"
            @"        tensor<int32, [4]> c_pad = const()[name = string(\"c_pad\"), "
            @"val = tensor<int32, [4]>([0, 0, 0, 0])];\n"
            @"        tensor<int32, [2]> c_dilations = const()[name = string(\"c_dilations\"), "
            @"val = tensor<int32, [2]>([1, 1])];\n"
            @"        int32 c_groups = const()[name = string(\"c_groups\"), val = int32(1)];\n",
        activation];
    if (int8)
        [text appendString:
                @"        fp16 q_scale = const()[name = string(\"q_scale\"), val = fp16(0x1p-3)];\n"
                @"        string q_dtype = const()[name = string(\"q_dtype\"), val = "
                @"string(\"int8\")];\n"
                @"        fp16 dq_scale = const()[name = string(\"dq_scale\"), val = "
                @"fp16(0x1p-3)];\n"];
}

static void appendWeights(NSMutableString *text, Config config, BOOL int8, int layer) {
    NSString *shape =
        [NSString stringWithFormat:@"[%d, %d, 1, 1]", config.channels, config.channels];
    unsigned long offset = Record + (size_t)layer * strideOf(config, int8);
    NSString *file = [NSString stringWithFormat:
            @"BLOBFILE(path = string(\"@model_path/weights/weight.bin\"), offset = uint64(%lu))",
        offset];
    [text appendFormat:@"        tensor<fp16, %@> W%d = ", shape, layer];
    if (int8)
        [text appendFormat:@"constexpr_affine_dequantize()[axis = int32(0), name = "
                           @"string(\"W%d\"), quantized_data = "
                           @"tensor<int8, %@>(%@), scale = fp16(0x1p-3), zero_point = int8(0)];\n",
            layer, shape, file];
    else
        [text appendFormat:@"const()[name = string(\"W%d\"), val = tensor<fp16, %@>(%@)];\n", layer,
            shape, file];
}

static NSData *textOf(Config config, BOOL int8) {
    NSString *activation = [NSString
        stringWithFormat:@"[1, %d, %d, %d]", config.channels, config.spatial, config.spatial];
    NSString *previous = @"x";
    NSMutableString *text = [NSMutableString string];
    appendHead(text, activation, int8);
    for (int layer = 0; layer < config.depth; layer++) {
        appendWeights(text, config, int8, layer);
        [text appendFormat:
                @"        tensor<fp16, %@> c%d = conv(dilations = c_dilations, groups = c_groups, "
                @"pad = c_pad, pad_type = c_pad_type, strides = c_strides, weight = W%d, x = %@)"
                @"[name = string(\"c%d\")];\n",
            activation, layer, layer, previous, layer];
        previous = [NSString stringWithFormat:@"c%d", layer];
        if (int8 && layer < config.depth - 1) {
            [text appendFormat:
                    @"        tensor<int8, %@> q%d = quantize(input = %@, output_dtype = q_dtype, "
                    @"scale = q_scale)[name = string(\"q%d\")];\n"
                    @"        tensor<fp16, %@> dq%d = dequantize(input = q%d, scale = dq_scale)"
                    @"[name = string(\"dq%d\")];\n",
                activation, layer, previous, layer, activation, layer, layer, layer];
            previous = [NSString stringWithFormat:@"dq%d", layer];
        }
    }
    [text appendFormat:@"    } -> (%@);\n}\n", previous];
    return [text dataUsingEncoding:NSUTF8StringEncoding];
}

static Program buildProgram(Config config, BOOL int8) {
    return (Program){textOf(config, int8), weightsOf(config, int8)};
}

static size_t tensorBytes(Config config) {
    return (size_t)config.channels * (size_t)config.spatial * (size_t)config.spatial * 2;
}

// =================================================================================================
// The engine
// =================================================================================================

static void writeFile(NSString *path, NSData *content) {
    int file =
        open([path fileSystemRepresentation], O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    ssize_t length = (ssize_t)[content length];
    need(file >= 0 && write(file, [content bytes], (size_t)length) == length && !close(file),
        "writing a file");
}

static IOSurfaceRef createSurface(size_t bytes) {
    NSNumber *size = [NSNumber numberWithUnsignedLongLong:bytes];
    NSNumber *one = [NSNumber numberWithUnsignedLongLong:1],
             *zero = [NSNumber numberWithUnsignedLongLong:0];
    return IOSurfaceCreate([NSDictionary dictionaryWithObjectsAndKeys:size, kIOSurfaceWidth, one,
        kIOSurfaceHeight, one, kIOSurfaceBytesPerElement, size, kIOSurfaceBytesPerRow, size,
        kIOSurfaceAllocSize, zero, kIOSurfacePixelFormat, nil]);
}

static id createModel(Program program, NSString **directory) {
    NSDictionary *entry = [NSDictionary dictionaryWithObject:program.weights forKey:@"data"];
    NSDictionary *weights = [NSDictionary dictionaryWithObject:entry
                                                        forKey:@"@model_path/weights/weight.bin"];
    id descriptor = [NSClassFromString(@"_ANEInMemoryModelDescriptor") modelWithMILText:program.text
                                                                                weights:weights
                                                                           optionsPlist:nil];
    id model =
        [[NSClassFromString(@"_ANEInMemoryModel") inMemoryModelWithDescriptor:descriptor] retain];
    need([model hexStringIdentifier] != nil, "the identifier");
    *directory = [[model localModelPath] retain];
    NSString *inner = [*directory stringByAppendingPathComponent:@"weights"];
    mkdir([*directory fileSystemRepresentation], 0700);
    writeFile([*directory stringByAppendingPathComponent:@"model.mil"], program.text);
    mkdir([inner fileSystemRepresentation], 0700);
    writeFile([inner stringByAppendingPathComponent:@"weight.bin"], program.weights);
    return model;
}

static id createRequest(IOSurfaceRef input, IOSurfaceRef output) {
    Class wrapper = NSClassFromString(@"_ANEIOSurfaceObject");
    NSNumber *zero = [NSNumber numberWithUnsignedLongLong:0];
    NSArray *index = [NSArray arrayWithObject:zero];
    NSArray *inputs = [NSArray arrayWithObject:[wrapper objectWithIOSurface:input]];
    NSArray *outputs = [NSArray arrayWithObject:[wrapper objectWithIOSurface:output]];
    return [[NSClassFromString(@"_ANERequest") requestWithInputs:inputs
                                                    inputIndices:index
                                                         outputs:outputs
                                                   outputIndices:index
                                                   weightsBuffer:nil
                                                       perfStats:nil
                                                  procedureIndex:zero] retain];
}

static Loaded load(Config config, BOOL int8) {
    NSError *error = nil;
    NSDictionary *options = [NSDictionary dictionary];
    Loaded loaded = {.model = nil};
    loaded.model = createModel(buildProgram(config, int8), &loaded.directory);
    need([loaded.model compileWithQoS:QoS options:options error:&error], "compile");
    need([loaded.model loadWithQoS:QoS options:options error:&error], "load");
    loaded.input = createSurface(tensorBytes(config));
    loaded.output = createSurface(tensorBytes(config));
    loaded.request = createRequest(loaded.input, loaded.output);
    return loaded;
}

static void evaluate(const Loaded *loaded, NSDictionary *options) {
    NSError *error = nil;
    need([loaded->model evaluateWithQoS:QoS options:options request:loaded->request error:&error],
        "evaluate");
}

// The mean of the timed evaluates, in ticks.
static double timeEvaluates(const Loaded *loaded, int warmup, int timed) {
    NSDictionary *options = [NSDictionary dictionary];
    for (int index = 0; index < warmup; index++)
        evaluate(loaded, options);
    uint64_t started = mach_absolute_time(), now = started;
    for (int index = 0; index < timed; index++) {
        evaluate(loaded, options);
        now = mach_absolute_time();
    }
    return (double)(now - started) / timed;
}

static void unload(const Loaded *loaded) {
    NSError *error = nil;
    need([loaded->model unloadWithQoS:QoS error:&error], "unload");
    [[NSFileManager defaultManager] removeItemAtPath:loaded->directory error:NULL];
    [loaded->directory release];
    [loaded->request release];
    [loaded->model release];
    CFRelease(loaded->input);
    CFRelease(loaded->output);
}

// =================================================================================================
// What the command line asks for
// =================================================================================================

static double microseconds(double ticks) {
    uint32_t fraction[2];
    mach_timebase_info(fraction);
    return ticks * fraction[0] / fraction[1] / 1e3;
}

static void run(Config config) {
    for (int variant = 0; variant < 2; variant++) {
        NSAutoreleasePool *pool = [NSAutoreleasePool new];
        Loaded loaded = load(config, variant == 1);
        printf("%dx%dx%d %s %.6f\n", config.channels, config.spatial, config.depth,
            variants[variant], microseconds(timeEvaluates(&loaded, Warmup, Timed)) / 1e3);
        unload(&loaded);
        [pool release];
    }
}

static uint32_t checksum(const uint8_t *bytes, size_t length) {
    static uint32_t table[256];
    for (uint32_t byte = 0; byte < 256 && !table[255]; byte++) {
        table[byte] = byte;
        for (int bit = 0; bit < 8; bit++)
            table[byte] = table[byte] >> 1 ^ (table[byte] & 1 ? 0xEDB88320u : 0);
    }
    uint32_t sum = ~0u;
    while (length--)
        sum = sum >> 8 ^ table[(sum ^ *bytes++) & 255];
    return ~sum;
}

static void printHashes(Config config) {
    for (int variant = 0; variant < 2; variant++) {
        Program program = buildProgram(config, variant == 1);
        printf("%dx%dx%d %s %08x %08x\n", config.channels, config.spatial, config.depth,
            variants[variant], checksum([program.text bytes], [program.text length]),
            checksum([program.weights bytes], [program.weights length]));
    }
}

static void printEvaluate(int count) {
    Loaded loaded = load(
        (Config){512, 32, 2}, NO);  // packed rows of 64 bytes, and records that all systems take
    printf("%.6f\n", microseconds(timeEvaluates(&loaded, 1, count)));
    unload(&loaded);
}

int main(int count, char **words) {
    for (size_t index = 0; index < sizeof configs / sizeof *configs; index++) {
        NSAutoreleasePool *pool = [NSAutoreleasePool new];
        if (count == 1)
            run(configs[index]);
        else if (!strcmp(words[1], "--hash"))
            printHashes(configs[index]);
        else if (!index && count == 3)
            printEvaluate(atoi(words[2]));
        [pool release];
    }
    return 0;
}
