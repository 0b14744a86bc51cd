// What `ane_bench.py --verify 0` does for the default configurations, compiled: the same weights, texts, files, inputs
// and calls, in one process, without a check or a report. Linked against the stand-in; tests/bench_overhead.py measures
// by it.
//
//   baseline                 a run; prints the mean ms per evaluate of each variant
//   baseline --hash          builds all and prints the CRC-32 of each program's text, weight file and input instead
//   baseline --evaluate N    prints the µs of one evaluate of a small program, the mean of N back to back

#import <Foundation/Foundation.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct __IOSurface *IOSurfaceRef;
IOSurfaceRef IOSurfaceCreate(NSDictionary *properties);
int IOSurfaceLock(IOSurfaceRef surface, uint32_t options, uint32_t *seed);
int IOSurfaceUnlock(IOSurfaceRef surface, uint32_t options, uint32_t *seed);
void *IOSurfaceGetBaseAddress(IOSurfaceRef surface);
void CFRelease(const void *object);
uint64_t mach_absolute_time(void);
int mach_timebase_info(uint32_t *fraction);
extern NSString *const kIOSurfaceWidth, *const kIOSurfaceHeight, *const kIOSurfaceBytesPerElement,
    *const kIOSurfaceBytesPerRow, *const kIOSurfaceAllocSize, *const kIOSurfacePixelFormat;

@interface NSObject (NeuralEngine)
+ (id)modelWithMILText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)options;
+ (id)inMemoryModelWithDescriptor:(id)descriptor;
+ (id)objectWithIOSurface:(IOSurfaceRef)surface;
+ (id)requestWithInputs:(NSArray *)inputs inputIndices:(NSArray *)inputIndices outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices weightsBuffer:(id)weights perfStats:(id)statistics
         procedureIndex:(NSNumber *)index;
- (NSString *)hexStringIdentifier;
- (NSString *)localModelPath;
- (BOOL)compiledModelExists;
- (void)purgeCompiledModel;
- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)evaluateWithQoS:(unsigned int)qos options:(NSDictionary *)options request:(id)request error:(NSError **)error;
- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error;
@end

enum { QoS = 21, Warmup = 10, Rounds = 10, PerRound = 5, Period = 8191, MostChannels = 512, Alignment = 64 };
typedef struct { int channels, spatial, depth; } Config;
typedef struct { NSData *text, *weights; } Program;
typedef struct {
    id model, request;
    IOSurfaceRef input, output;
    uint64_t samples[Rounds * PerRound];
    int count;
} Loaded;

static const Config configs[] = {{512, 64, 128}, {512, 64, 64}, {256, 64, 256}, {256, 64, 128}, {384, 64, 128}};
static const char *const variants[] = {"fp16", "w8a8"};

static void need(BOOL done, const char *what)
{
    if (done)
        return;
    fprintf(stderr, "baseline: %s failed\n", what);
    exit(1);
}

// =====================================================================================================================
// Python's random.Random(0).random(): the Mersenne Twister
// =====================================================================================================================

static uint32_t state[624];
static int place;

static void mixState(uint32_t factor, int first, int steps, int sign)
{
    for (int index = first; steps--;) {
        state[index] = (state[index] ^ (state[index - 1] ^ state[index - 1] >> 30) * factor) + (uint32_t)(sign * index);
        if (++index == 624) {
            state[0] = state[623];
            index = 1;
        }
    }
}

static void seedGenerator(void)
{
    state[0] = 19650218;
    for (int index = 1; index < 624; index++)
        state[index] = 1812433253u * (state[index - 1] ^ state[index - 1] >> 30) + (uint32_t)index;
    mixState(1664525u, 1, 624, 0);
    mixState(1566083941u, 2, 623, -1);
    state[0] = 0x80000000u;
    place = 624;
}

static uint32_t drawWord(void)
{
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

static double draw(void)
{
    uint32_t high = drawWord() >> 5, low = drawWord() >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
}

// =====================================================================================================================
// Programs and input
// =====================================================================================================================

// A row of a flat spectrum as integers, by the transform's definition; returns their exponent.
static int drawRow(int channels, int *integers)
{
    double real[MostChannels], imaginary[MostChannels], cosines[MostChannels], sines[MostChannels], row[MostChannels];
    double largest = 0;
    for (int index = 0; index <= channels / 2; index++) {
        double turns = draw();
        BOOL single = index == 0 || 2 * index == channels;
        real[index] = single ? 1 - 2 * rint(turns) : 2 * cos(2 * M_PI * turns);
        imaginary[index] = single ? 0 : 2 * sin(2 * M_PI * turns);
    }
    for (int index = 0; index < channels; index++) {
        cosines[index] = cos(2 * M_PI * index / channels);
        sines[index] = sin(2 * M_PI * index / channels);
    }
    for (int index = 0; index < channels; index++) {
        double sum = 0;
        for (int frequency = 0; frequency <= channels / 2; frequency++) {
            int turns = index * frequency % channels;
            sum += real[frequency] * cosines[turns] - imaginary[frequency] * sines[turns];
        }
        row[index] = sum / channels;
        largest = fmax(largest, fabs(row[index]));
    }
    int exponent = 0;
    while (ldexp(largest, exponent + 1) <= 127)
        exponent++;
    for (int index = 0; index < channels; index++)
        integers[index] = (int)rint(ldexp(row[index], exponent));
    return exponent;
}

typedef struct { double key; int rotation; } Draw;

static int compareKeys(const void *first, const void *second)
{
    double own = ((const Draw *)first)->key, other = ((const Draw *)second)->key;
    return (own > other) - (own < other);
}

// One layer: every rotation of the row, in an order and with signs of its own.
static void fillLayer(int channels, const uint8_t *pool, size_t element, uint8_t *layer)
{
    Draw draws[MostChannels];
    for (int index = 0; index < channels; index++)
        draws[index] = (Draw){draw(), index};
    qsort(draws, (size_t)channels, sizeof *draws, compareKeys);
    size_t row = (size_t)channels * element;
    for (int index = 0; index < channels; index++) {
        int start = draws[index].rotation + (draw() < 0.5 ? 0 : 2 * channels);
        memcpy(layer + (size_t)index * row, pool + (size_t)start * element, row);
    }
}

static size_t strideOf(Config config, size_t element)
{
    size_t size = (size_t)config.channels * (size_t)config.channels * element;
    return Alignment + (size + Alignment - 1) / Alignment * Alignment;
}

static NSData *weightsOf(Config config, BOOL int8, int *exponent)
{
    int integers[MostChannels], channels = config.channels;
    size_t element = int8 ? 1 : 2, size = (size_t)channels * (size_t)channels * element;
    size_t stride = strideOf(config, element);
    size_t length = Alignment + stride * (size_t)(config.depth - 1) + Alignment + size;
    uint8_t pool[4 * MostChannels * 2], *file = calloc(length, 1);
    seedGenerator();
    *exponent = drawRow(channels, integers);
    for (int index = 0; index < 4 * channels; index++) {
        int value = integers[index % channels] * (index < 2 * channels ? 1 : -1);
        _Float16 half = (_Float16)ldexp(value, -*exponent);
        memcpy(pool + (size_t)index * element, int8 ? (void *)&(int8_t){(int8_t)value} : &half, element);
    }
    memcpy(file, (uint32_t[]){(uint32_t)config.depth, 2}, 8);
    for (int layer = 0; layer < config.depth; layer++) {
        uint8_t *record = file + Alignment + (size_t)layer * stride;
        memcpy(record, (uint32_t[]){0xDEADBEEF, int8 ? 4 : 1}, 8);
        memcpy(record + 8, (uint64_t[]){size, (uint64_t)(record + Alignment - file)}, 16);
        fillLayer(channels, pool, element, record + Alignment);
    }
    return [NSData dataWithBytesNoCopy:file length:length freeWhenDone:YES];
}

static void appendHead(NSMutableString *text, NSString *activation, BOOL int8)
{
    [text appendFormat:@"program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", \"3510.2.1\"}, "
        @"{\"coremlc-version\", \"3505.4.1\"}, {\"coremltools-component-milinternal\", \"\"}, "
        @"{\"coremltools-version\", \"9.0\"}})]\n{\n    func main<ios18>(tensor<fp16, %@> x) {\n"
        @"        string c_pad_type = const()[name = string(\"c_pad_type\"), val = string(\"valid\")];\n"
        @"        tensor<int32, [2]> c_strides = const()[name = string(\"c_strides\"), "
        @"val = tensor<int32, [2]>([1, 1])];\n"
        @"        tensor<int32, [4]> c_pad = const()[name = string(\"c_pad\"), "
        @"val = tensor<int32, [4]>([0, 0, 0, 0])];\n"
        @"        tensor<int32, [2]> c_dilations = const()[name = string(\"c_dilations\"), "
        @"val = tensor<int32, [2]>([1, 1])];\n"
        @"        int32 c_groups = const()[name = string(\"c_groups\"), val = int32(1)];\n", activation];
    if (int8)
        [text appendString:@"        fp16 q_scale = const()[name = string(\"q_scale\"), val = fp16(0x1p-5)];\n"
            @"        string q_dtype = const()[name = string(\"q_dtype\"), val = string(\"int8\")];\n"
            @"        fp16 dq_scale = const()[name = string(\"dq_scale\"), val = fp16(0x1p-5)];\n"];
}

static void appendWeights(NSMutableString *text, Config config, BOOL int8, int exponent, int layer)
{
    NSString *shape = [NSString stringWithFormat:@"[%d, %d, 1, 1]", config.channels, config.channels];
    unsigned long offset = Alignment + (size_t)layer * strideOf(config, int8 ? 1 : 2);
    NSString *file = [NSString stringWithFormat:
        @"BLOBFILE(path = string(\"@model_path/weights/weight.bin\"), offset = uint64(%lu))", offset];
    [text appendFormat:@"        tensor<fp16, %@> W%d = ", shape, layer];
    if (int8)
        [text appendFormat:@"constexpr_affine_dequantize()[axis = int32(0), name = string(\"W%d\"), quantized_data = "
            @"tensor<int8, %@>(%@), scale = fp16(0x1p-%d), zero_point = int8(0)];\n", layer, shape, file, exponent];
    else
        [text appendFormat:@"const()[name = string(\"W%d\"), val = tensor<fp16, %@>(%@)];\n", layer, shape, file];
}

static NSData *textOf(Config config, BOOL int8, int exponent)
{
    NSString *activation = [NSString stringWithFormat:@"[1, %d, %d, %d]", config.channels, config.spatial,
                            config.spatial];
    NSString *previous = @"x";
    NSMutableString *text = [NSMutableString string];
    appendHead(text, activation, int8);
    for (int layer = 0; layer < config.depth; layer++) {
        appendWeights(text, config, int8, exponent, layer);
        [text appendFormat:@"        tensor<fp16, %@> c%d = conv(dilations = c_dilations, groups = c_groups, "
            @"pad = c_pad, pad_type = c_pad_type, strides = c_strides, weight = W%d, x = %@)"
            @"[name = string(\"c%d\")];\n",
            activation, layer, layer, previous, layer];
        previous = [NSString stringWithFormat:@"c%d", layer];
        if (int8 && layer < config.depth - 1) {
            [text appendFormat:@"        tensor<int8, %@> q%d = quantize(input = %@, output_dtype = q_dtype, "
                @"scale = q_scale)[name = string(\"q%d\")];\n"
                @"        tensor<fp16, %@> dq%d = dequantize(input = q%d, scale = dq_scale)"
                @"[name = string(\"dq%d\")];\n", activation, layer, previous, layer, activation, layer, layer, layer];
            previous = [NSString stringWithFormat:@"dq%d", layer];
        }
    }
    [text appendFormat:@"    } -> (%@);\n}\n", previous];
    return [text dataUsingEncoding:NSUTF8StringEncoding];
}

static Program buildProgram(Config config, BOOL int8)
{
    int exponent;
    NSData *weights = weightsOf(config, int8, &exponent);
    return (Program){textOf(config, int8, exponent), weights};
}

static size_t tensorBytes(Config config)
{
    return (size_t)config.channels * (size_t)config.spatial * (size_t)config.spatial * 2;
}

static void fillInput(Config config, uint8_t *input)
{
    size_t channel = tensorBytes(config) / (size_t)config.channels, count = channel / 2 + Period;
    _Float16 *pool = malloc(count * sizeof *pool);
    seedGenerator();
    for (int index = 0; index < Period; index++) {
        long sum = 0;
        for (int term = 0; term < 12; term++)
            sum += (long)(draw() * 65536);
        pool[index] = (_Float16)fmax(-3.9, fmin(3.9, sum / 65536.0 - 6));
    }
    for (size_t index = Period; index < count; index++)
        pool[index] = pool[index - Period];
    for (int index = 0; index < config.channels; index++)
        memcpy(input + (size_t)index * channel, pool + (int)(draw() * Period), channel);
    free(pool);
}

// =====================================================================================================================
// The engine
// =====================================================================================================================

static void writeFile(NSString *path, NSData *content)
{
    int file = open([path fileSystemRepresentation], O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    ssize_t length = (ssize_t)[content length];
    need(file >= 0 && write(file, [content bytes], (size_t)length) == length && !close(file), "writing a file");
}

static IOSurfaceRef createSurface(size_t bytes)
{
    NSNumber *size = [NSNumber numberWithUnsignedLongLong:(bytes + 65535) / 65536 * 65536];
    NSNumber *one = [NSNumber numberWithUnsignedLongLong:1], *zero = [NSNumber numberWithUnsignedLongLong:0];
    return IOSurfaceCreate([NSDictionary dictionaryWithObjectsAndKeys:size, kIOSurfaceWidth, one, kIOSurfaceHeight,
        one, kIOSurfaceBytesPerElement, size, kIOSurfaceBytesPerRow, size, kIOSurfaceAllocSize,
        zero, kIOSurfacePixelFormat, nil]);
}

static id createModel(Program program)
{
    NSDictionary *entry = [NSDictionary dictionaryWithObject:program.weights forKey:@"data"];
    NSDictionary *weights = [NSDictionary dictionaryWithObject:entry forKey:@"@model_path/weights/weight.bin"];
    id descriptor = [NSClassFromString(@"_ANEInMemoryModelDescriptor") modelWithMILText:program.text weights:weights
                                                                           optionsPlist:nil];
    id model = [[NSClassFromString(@"_ANEInMemoryModel") inMemoryModelWithDescriptor:descriptor] retain];
    need([model hexStringIdentifier] != nil, "the identifier");
    NSString *directory = [model localModelPath], *inner = [directory stringByAppendingPathComponent:@"weights"];
    mkdir([directory fileSystemRepresentation], 0700);
    writeFile([directory stringByAppendingPathComponent:@"model.mil"], program.text);
    mkdir([inner fileSystemRepresentation], 0700);
    writeFile([inner stringByAppendingPathComponent:@"weight.bin"], program.weights);
    return model;
}

static id createRequest(IOSurfaceRef input, IOSurfaceRef output)
{
    Class wrapper = NSClassFromString(@"_ANEIOSurfaceObject");
    NSNumber *zero = [NSNumber numberWithUnsignedLongLong:0];
    NSArray *index = [NSArray arrayWithObject:zero];
    NSArray *inputs = [NSArray arrayWithObject:[wrapper objectWithIOSurface:input]];
    NSArray *outputs = [NSArray arrayWithObject:[wrapper objectWithIOSurface:output]];
    return [[NSClassFromString(@"_ANERequest") requestWithInputs:inputs inputIndices:index outputs:outputs
        outputIndices:index weightsBuffer:nil perfStats:nil procedureIndex:zero] retain];
}

// Puts the input in place, and NaN where the output will be.
static void fillSurfaces(Config config, const Loaded *loaded)
{
    IOSurfaceLock(loaded->input, 0, NULL);
    fillInput(config, IOSurfaceGetBaseAddress(loaded->input));
    IOSurfaceUnlock(loaded->input, 0, NULL);
    IOSurfaceLock(loaded->output, 0, NULL);
    uint16_t *output = IOSurfaceGetBaseAddress(loaded->output);
    for (size_t index = 0; index < tensorBytes(config) / 2; index++)
        output[index] = 0x7e00;
    IOSurfaceUnlock(loaded->output, 0, NULL);
}

static Loaded load(Config config, BOOL int8)
{
    NSError *error = nil;
    NSDictionary *options = [NSDictionary dictionary];
    Loaded loaded = {.model = createModel(buildProgram(config, int8))};
    [loaded.model compiledModelExists];
    need([loaded.model compileWithQoS:QoS options:options error:&error], "compile");
    need([loaded.model loadWithQoS:QoS options:options error:&error], "load");
    loaded.input = createSurface(tensorBytes(config));
    loaded.output = createSurface(tensorBytes(config));
    loaded.request = createRequest(loaded.input, loaded.output);
    fillSurfaces(config, &loaded);
    return loaded;
}

static void evaluate(const Loaded *loaded, NSDictionary *options)
{
    NSError *error = nil;
    need([loaded->model evaluateWithQoS:QoS options:options request:loaded->request error:&error], "evaluate");
}

static void runRound(Loaded *loaded, NSDictionary *options)
{
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    evaluate(loaded, options);
    uint64_t before = mach_absolute_time();
    for (int index = 0; index < PerRound; index++) {
        evaluate(loaded, options);
        uint64_t now = mach_absolute_time();
        loaded->samples[loaded->count++] = now - before;
        before = now;
    }
    [pool release];
}

static void unload(const Loaded *loaded)
{
    NSError *error = nil;
    NSString *directory = [loaded->model localModelPath];
    need([loaded->model unloadWithQoS:QoS error:&error], "unload");
    [loaded->model purgeCompiledModel];
    [[NSFileManager defaultManager] removeItemAtPath:directory error:NULL];
    [loaded->request release];
    [loaded->model release];
    CFRelease(loaded->input);
    CFRelease(loaded->output);
}

// =====================================================================================================================
// What the command line asks for
// =====================================================================================================================

static double microseconds(uint64_t ticks)
{
    uint32_t fraction[2];
    mach_timebase_info(fraction);
    return (double)ticks * fraction[0] / fraction[1] / 1e3;
}

static void run(Config config)
{
    NSDictionary *options = [NSDictionary dictionary];
    Loaded loaded[2] = {load(config, NO), load(config, YES)};
    for (int variant = 0; variant < 2; variant++)
        for (int index = 0; index < Warmup; index++)
            evaluate(&loaded[variant], options);
    for (int round = 0; round < Rounds; round++)
        for (int turn = 0; turn < 2; turn++)
            runRound(&loaded[(turn + round) % 2], options);
    for (int variant = 0; variant < 2; variant++) {
        uint64_t sum = 0;
        for (int index = 0; index < loaded[variant].count; index++)
            sum += loaded[variant].samples[index];
        printf("%dx%dx%d %s %.6f\n", config.channels, config.spatial, config.depth, variants[variant],
               microseconds(sum) / 1e3 / loaded[variant].count);
        unload(&loaded[variant]);
    }
}

static uint32_t checksum(const uint8_t *bytes, size_t length)
{
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

static void printHashes(Config config)
{
    uint8_t *input = malloc(tensorBytes(config));
    fillInput(config, input);
    for (int variant = 0; variant < 2; variant++) {
        Program program = buildProgram(config, variant == 1);
        printf("%dx%dx%d %s %08x %08x %08x\n", config.channels, config.spatial, config.depth, variants[variant],
               checksum([program.text bytes], [program.text length]),
               checksum([program.weights bytes], [program.weights length]),
               checksum(input, tensorBytes(config)));
    }
    free(input);
}

static void timeEvaluates(int count)
{
    NSDictionary *options = [NSDictionary dictionary];
    Loaded loaded = load((Config){64, 32, 2}, NO);
    uint64_t *marks = calloc((size_t)count + 1, sizeof *marks);
    evaluate(&loaded, options);
    marks[0] = mach_absolute_time();
    for (int index = 1; index <= count; index++) {
        evaluate(&loaded, options);
        marks[index] = mach_absolute_time();
    }
    printf("%.6f\n", microseconds(marks[count] - marks[0]) / count);
    free(marks);
    unload(&loaded);
}

int main(int count, char **words)
{
    for (size_t index = 0; index < sizeof configs / sizeof *configs; index++) {
        NSAutoreleasePool *pool = [NSAutoreleasePool new];
        if (count == 1)
            run(configs[index]);
        else if (!strcmp(words[1], "--hash"))
            printHashes(configs[index]);
        else if (!index && count == 3)
            timeEvaluates(atoi(words[2]));
        [pool release];
    }
    return 0;
}
